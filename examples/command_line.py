"""A program from the command line, once for each ``-a``; files that it needs go with ``-f``."""

import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """import sys
factor = int(open("factor.txt").read())
print(sum(int(word) for word in sys.argv[1:]) * factor)
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "add.py").write_text(SCRIPT)
        Path(directory, "factor.txt").write_text("10")
        command = ["run", "-f", "factor.txt", "-a", "1 2", "-a", "3 4 5", "-a", "6", "add.py"]
        print("dispy", *command)
        # In a shell: dispy run …
        ran = subprocess.run(
            [sys.executable, "-m", "dispy.cli.main", *command],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        print(ran.stdout)
        lines = ran.stdout.splitlines()
        for number, sums in enumerate(["30", "120", "60"], 1):
            place = next(place for place, line in enumerate(lines) if line.startswith(f"run {number} "))
            assert lines[place + 1] == sums
