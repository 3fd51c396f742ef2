"""One cluster of a program: its record, and what is done with its jobs, files and objects."""
