"""The scheduler that SharedJobClusters use. Not available yet: importing it says so."""

from dispy.later import refuse_module

refuse_module("dispy.dispyscheduler", __name__)
