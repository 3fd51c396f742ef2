"""What a node does with the jobs it is given: which worker runs which, and what is told to whom.

``Machine.handle(event, now)`` changes the state and returns actions. A job is *ready* (in the queue
of its computation), in a *record* offered to a worker, or ended. Nothing that has not started is
stuck: a record that its worker has not taken is recalled through the kernel, the rest of one that
it has taken is cut off through the worker's slot.
"""

from dispy.core.execution.machine import Machine as Machine
