"""``dispy doctor``: finds out why machines do not work together, and says what to do.

``command`` has the options, ``examination`` what is looked at in which order. ``facts`` measures a machine, here or
as a job there; ``machine_checks`` judges what was measured; ``hops`` follows the way to a node step by step; ``air``
listens for beacons.
"""
