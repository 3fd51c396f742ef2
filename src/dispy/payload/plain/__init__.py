"""Payloads of nodes that a program does not trust with code: read without calling anything that they name."""
