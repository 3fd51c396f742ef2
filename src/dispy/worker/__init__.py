"""The processes that run user code: one host for each computation, and its workers, forked from the host.

These processes stand alone: they import no asyncio and nothing of the daemons, and hold no secrets.
"""
