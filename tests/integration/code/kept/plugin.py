"""Registers things with ``base``; nothing that jobs name."""

from kept import base


@base.register
def plugged(x):
    return ("plugged", x)


@base.show.register
def _(x: base.Point):
    return "point of the plug-in"


base.Shape.register(base.Point)


class Plug(base.Base):
    pass


base.known.append(Plug())


def replaced():
    return "replaced"
