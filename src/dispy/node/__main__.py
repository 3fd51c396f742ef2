"""``python -m dispy.node``: a cluster's own node. Reads its settings from standard input, as JSON."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # until all is loaded; see ``main``
    from dispy.node.daemon import main
    from dispy.settings import settings_decoder

    main(settings_decoder.decode(sys.stdin.buffer.read()))
