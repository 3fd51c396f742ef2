"""The seam between a program's clusters and their scheduler, and the scheduler in the program's own process."""
