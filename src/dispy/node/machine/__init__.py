"""The machine that a node lends: CPUs, spare capacity, the account of jobs, and the files they print to."""
