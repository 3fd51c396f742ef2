"""Which job runs where and when, and what happens when something is lost.

``Machine.handle(event, now)`` changes the state and returns actions. One machine serves a program
(``JobCluster``) as it serves many (``dispyscheduler``): clients, their computations, nodes, and a
*placement* for each computation on each node are all in its state.
"""

from dispy.core.scheduling.machine import Machine as Machine
