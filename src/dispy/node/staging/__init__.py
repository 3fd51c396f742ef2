"""Working directories on a node, and the files of computations and jobs that are put there."""
