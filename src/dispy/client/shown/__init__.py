"""Clusters, jobs and nodes as people see them: in one line, as tables, in notebooks, as progress on a terminal."""
