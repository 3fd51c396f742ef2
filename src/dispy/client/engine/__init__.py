"""The engine: the background thread of a program, its helper threads, and how nodes are found, dialed and started."""
