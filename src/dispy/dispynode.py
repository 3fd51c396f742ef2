"""Old name of the node program, as in dispy 4: ``python -m dispy.dispynode``."""

from dispy.cli.node import command as command
from dispy.cli.node import main as main

if __name__ == "__main__":
    main()
