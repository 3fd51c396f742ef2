"""Parts of a job: its state and who waits for it, functions called at its end, and futures over it."""
