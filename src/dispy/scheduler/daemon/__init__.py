"""The shared scheduler (``dispyscheduler``): one core, with many programs on one side and the nodes on the other."""
