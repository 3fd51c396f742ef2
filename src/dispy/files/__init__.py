"""Files on their way: what a program sends, what a node keeps of it, and where it lands."""
