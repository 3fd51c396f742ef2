"""The protocols between dispy's programs: messages, and their form as bytes. Pure: no I/O, no clocks.

``handshake`` proves the secret, ``node`` has the messages between scheduler and node, ``worker`` those between the
processes of a node. ``frames`` and ``streams`` turn messages and payloads into bytes; ``pace`` limits how many bytes
are under way; ``limits`` bounds everything that a peer can send.
"""
