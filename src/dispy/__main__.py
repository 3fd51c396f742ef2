"""``python -m dispy``: the ``dispy`` command."""

from dispy.cli.main import main

if __name__ == "__main__":
    main()
