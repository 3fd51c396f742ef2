"""Old name of the shared scheduler's program, as in dispy 4: ``python -m dispy.dispyscheduler``."""

from dispy.cli.scheduler import command as command
from dispy.cli.scheduler import main as main

if __name__ == "__main__":
    main()
