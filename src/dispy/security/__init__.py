"""Secrets, certificates and TLS: how two peers know each other."""
