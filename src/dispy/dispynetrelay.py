"""The relay that finds nodes of other networks. Not available yet: importing this module raises
``MissingModuleError``.
"""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispynetrelay", __name__)
