"""Sockets: connections to peers, listeners for strangers, and how nodes of this machine are found."""
