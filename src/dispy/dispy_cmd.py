"""Old name of ``dispy run``, as in dispy 4: ``python -m dispy.dispy_cmd``."""

from dispy.cli.run import main as main
from dispy.cli.run import run as run

if __name__ == "__main__":
    main()
