"""The node (dispynode): performs what the execution core decides. It starts hosts, feeds workers, keeps results."""
