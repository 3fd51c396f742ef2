"""Fetching of files by content: files that are missing are asked of clients, piece by piece, and stored."""
