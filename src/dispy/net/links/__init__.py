"""Links that dial again, messages and batches that are kept over connections that break, payloads by name."""
