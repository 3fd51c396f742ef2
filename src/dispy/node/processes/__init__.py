"""Processes of computations on a node: hosts, which load code, their workers, which run jobs, and the directories in
which the Python of both looks for modules."""
