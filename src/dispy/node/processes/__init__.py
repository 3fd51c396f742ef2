"""Processes of computations on a node: hosts, their workers, and the search path of their Python."""
