"""``python -m dispy.node``: a cluster's own node. Reads its settings from standard input, as JSON."""

import sys

from dispy.node.daemon import run
from dispy.settings import settings_decoder

if __name__ == "__main__":
    sys.exit(run(settings_decoder.decode(sys.stdin.buffer.read())))
