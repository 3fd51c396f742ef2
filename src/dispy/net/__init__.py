"""Sockets and what finds and guards them: connections, secrets, addresses, discovery on this machine."""
