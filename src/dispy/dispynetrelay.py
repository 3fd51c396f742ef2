"""Finds nodes of other networks. Not available yet: importing it says so."""

from dispy.later import refuse_module

refuse_module("dispy.dispynetrelay", __name__)
