"""One connection without its socket: bytes and the time in, messages and bytes out (``machine``)."""
