"""For all tests."""

import os
import sys

# They start some thousand interpreters, each of which would compile all that it imports: 0.3 s for a program, a node
# and its host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
