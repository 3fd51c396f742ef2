"""Commands: command lines of users, turned into settings and calls.

Docstrings of commands are their ``--help`` texts.
"""
