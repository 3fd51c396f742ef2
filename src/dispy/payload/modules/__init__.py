"""Modules of the user's own that can be imported: they are told from others, sent, and imported where jobs run."""
