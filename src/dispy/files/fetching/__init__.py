"""Fetching of files by content: what is missing is asked of whom, in pieces, and stored."""
