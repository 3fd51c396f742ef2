"""The operating system as dispy uses it: processes, memory, directories, clocks, addresses; and text for people."""
