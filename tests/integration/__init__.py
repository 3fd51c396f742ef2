"""The whole of dispy by real processes, real sockets and real signals."""
