"""``cluster.map``: items cut into chunks, chunks run as jobs, results in order."""
