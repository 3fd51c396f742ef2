"""The web page to administer nodes. Not available yet: importing it says so."""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispyadmin", __name__)
