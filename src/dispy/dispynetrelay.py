"""Finds nodes of other networks. Not available yet: importing it says so."""

from dispy.not_yet import refuse_module

refuse_module("dispy.dispynetrelay", __name__)
