"""Fuzzers of our own: what anybody may send us, by the million."""
