"""``python -m dispy.node``: runs the private node of a cluster. Its settings come from standard input, as JSON."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # until all modules are loaded; see ``daemon.main``
    from dispy.node.daemon import main
    from dispy.settings import settings_decoder

    main(settings_decoder.decode(sys.stdin.buffer.read()))
