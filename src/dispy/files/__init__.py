"""Files that programs send: which ones, how a node stores them by content, and where jobs find them."""
