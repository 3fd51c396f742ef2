"""Programs that died: what is noted for them while they live, and how their jobs are found again."""
