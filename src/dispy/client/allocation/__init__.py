"""The nodes of a cluster: which of them it uses, how many CPUs of each, and how the program sees them."""
