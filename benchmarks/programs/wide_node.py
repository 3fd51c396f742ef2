"""A ``dispynode`` that may offer any number of CPUs: for jobs that only sleep."""

from __future__ import annotations

import sys

from dispy.cli.node import main
from dispy.node import daemon

if __name__ == "__main__":
    wanted = int(sys.argv[sys.argv.index("--cpus") + 1])
    setattr(daemon, "usable_cpus", lambda: wanted)  # noqa: B010  # a name that it imports
    main()
