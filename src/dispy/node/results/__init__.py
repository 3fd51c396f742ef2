"""Results on their way to clients: told at once, or kept on disk for those that are away."""
