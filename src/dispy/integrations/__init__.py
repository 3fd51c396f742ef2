"""Interfaces of other libraries over clusters: what is here uses clusters as any program does."""
