"""Old import path of the node program: ``python -m dispy.dispynode``."""

from dispy.cli.node import command as command
from dispy.cli.node import main as main

if __name__ == "__main__":
    main()
