"""The state of a worker between two jobs: what a job has changed is put back, or the worker ends."""
