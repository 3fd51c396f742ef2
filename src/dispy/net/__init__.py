"""Sockets: connections to peers, heartbeats, listening for strangers, and the discovery of nodes on this machine."""
