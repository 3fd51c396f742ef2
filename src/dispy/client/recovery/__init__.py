"""Recovery: notes that a living program makes, and how the jobs of a dead one are found again and resumed."""
