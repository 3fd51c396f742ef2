"""Large payloads on a node: in shared memory or on disk, and between files and sockets."""
