"""One cluster of a program: its record (``state``), and functions on it for jobs, files, objects and callbacks."""
