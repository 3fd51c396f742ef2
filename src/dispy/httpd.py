"""The web page that shows clusters. Not available yet: importing it says so."""

from dispy.later import refuse_module

refuse_module("dispy.httpd", __name__)
