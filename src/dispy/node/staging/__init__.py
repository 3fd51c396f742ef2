"""Files of computations and jobs, from the store to the directories where jobs find them."""
