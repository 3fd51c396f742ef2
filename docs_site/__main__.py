"""Builds the site of ``docs/`` and checks it.

    python -m docs_site            into build/site; open build/site/index.html
    python -m docs_site DIRECTORY  into another directory

Any warning is an error, as is a link that leads nowhere, and a page that fetches something from elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from docs_site.links import faults

ROOT = Path(__file__).resolve().parents[1]

BUILT = ".buildinfo"
"""File that Sphinx leaves in each site: only directories with it are emptied."""


def main() -> None:
    """Entry of ``python -m docs_site``. Exit code 1 if the site has a fault."""
    parser = argparse.ArgumentParser(prog="docs_site", description="Build the site of docs/ and check it.")
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "build" / "site")
    directory: Path = parser.parse_args().directory
    if directory.is_dir() and any(directory.iterdir()) and not (directory / BUILT).exists():
        parser.error(f"{directory} holds something else than a site: name a new directory")
    if importlib.util.find_spec("sphinx") is None:
        parser.error("Sphinx is not installed: python -m pip install -e '.[docs]'")
    shutil.rmtree(directory, ignore_errors=True)  # pages that are gone must not stay
    # -E: read all pages anew, so that what they say of the source is of now. -T: tracebacks in full.
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-E", "-T", "-q"]
    places = [str(ROOT / "docs"), str(directory)]
    trees = ["-d", str(directory.with_name(directory.name + "-trees"))]
    if subprocess.run([*command, *trees, *places], cwd=ROOT).returncode:
        sys.exit(1)
    found = faults(directory)
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        sys.exit(1)
    count = sum(1 for _ in directory.rglob("*.html"))
    print(f"{count} pages, no fault: {directory / 'index.html'}")


if __name__ == "__main__":
    main()
