"""The node (``dispynode``): runs jobs of clients on this machine, as the execution core (``core.execution``) decides.

It starts a host process per computation, gives jobs to the workers, and keeps results until clients have them.
"""
