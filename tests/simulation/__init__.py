"""Whole clusters in one thread and in a time of their own, with everything going wrong that can."""
