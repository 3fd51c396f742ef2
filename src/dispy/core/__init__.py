"""All decisions of schedulers and nodes, as pure state machines.

A machine takes an event and the time, changes its state and returns actions; a *shell* around it carries them out.
Nothing here does I/O, reads a clock, draws random numbers, logs or starts a thread, so tests can replay any order of
events. ``scheduling`` decides for a scheduler, ``execution`` for a node, ``recovery`` for the jobs of a dead program.
"""
