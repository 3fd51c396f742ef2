"""Beacons on real networks: which interfaces there are, the sockets on them, and who sends and takes what.

``seekers`` is the side of programs and schedulers, ``here`` that of nodes. Both go by ``core.discovery``.
"""
