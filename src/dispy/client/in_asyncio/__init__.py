"""Clusters and jobs in asyncio loops: nothing here blocks the loop that it is called in."""
