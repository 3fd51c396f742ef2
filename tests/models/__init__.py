"""Models of what is around the two cores: workers, hosts, the shells of node and scheduler.

Property tests and the simulation share them; workers and hosts are compared with the real processes here.
"""
