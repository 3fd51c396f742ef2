"""The scheduler that SharedJobClusters use. Not available yet: importing it says so."""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispyscheduler", __name__)
