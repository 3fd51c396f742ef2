"""Modules of the user's own that can be imported: told from others, sent, imported where jobs run."""
