"""``cluster.map``: items are cut into chunks, chunks run as jobs, and results come in the order of the items."""
