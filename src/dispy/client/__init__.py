"""The library that a program imports: clusters, jobs, nodes, callbacks, over an embedded scheduler."""
