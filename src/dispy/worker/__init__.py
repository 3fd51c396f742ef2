"""The processes that run user code: one host per computation, and its workers, forked from it.

They stand alone: no asyncio, nothing of the daemons, no secrets.
"""
