"""Journals on disk: by its journal, the jobs of a dead program are found. Knows neither clients nor pickles."""
