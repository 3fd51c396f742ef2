"""The machine that a node lends: CPUs, spare capacity, accounts, and the files that jobs print to."""
