"""What is decided. Pure: events and the time in, actions out; no I/O, clocks, randomness or logging."""
