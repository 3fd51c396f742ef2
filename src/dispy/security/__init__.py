"""Secrets, certificates and TLS: how two peers authenticate each other."""
