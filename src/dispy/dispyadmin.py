"""The web page to administer nodes. Not available yet: importing this module raises ``MissingModuleError``."""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispyadmin", __name__)
