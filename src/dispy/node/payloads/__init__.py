"""Large payloads on a node: files in shared memory or on disk, and their way from and to sockets."""
