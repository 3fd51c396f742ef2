"""Processes of computations on a node: hosts, workers, the Python that they run."""
