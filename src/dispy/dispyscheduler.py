"""The scheduler for ``SharedJobCluster``. Not available yet: importing this module raises ``MissingModuleError``."""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispyscheduler", __name__)
