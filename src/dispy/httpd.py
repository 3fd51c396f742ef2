"""The web page that shows clusters. Not available yet: importing this module raises ``MissingModuleError``."""

from dispy.not_yet import refuse_module

refuse_module("dispy.httpd", __name__)
