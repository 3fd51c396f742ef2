"""dispynode: performs what the execution core decides. Starts hosts, feeds workers, keeps results."""
