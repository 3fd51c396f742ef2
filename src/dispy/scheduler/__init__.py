"""The shell of the scheduling core: links to nodes in, events; actions out. Embedded or a daemon."""
