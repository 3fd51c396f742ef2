"""The shell of the scheduling core (``core.scheduling``): turns messages of nodes into events, and performs actions.

Every program has a scheduler of its own, on the loop of its client library.
"""
