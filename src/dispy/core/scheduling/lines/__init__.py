"""Turns and accounts: which computation comes first where several wait, and how many jobs of all a node takes.

``accounts`` counts the jobs on a node, ``parties`` what users, programs and computations have had of the CPUs,
``waiting`` finds whose turn it is at a node, ``clients`` has the events about users and programs.
"""
