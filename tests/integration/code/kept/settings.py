"""What programs configure before they start."""

import argparse
import enum
import pathlib
import types
from dataclasses import dataclass, field


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


@dataclass
class Options:
    level: int = 1
    names: list = field(default_factory=list)


class Config:
    level = 1
    table = {"a": 1}

    def get(self):
        return self.level


class Child(Config):
    pass


N = 1
TEXT = "text"
NOTHING = None
PATH = pathlib.Path("/a")
MODE = Mode.FAST
ITEMS = [1, 2]
TABLE = {"a": {"b": [1]}}
TUPLE = (1, 2)
SET = {1}
NAN = float("nan")
options = Options()
namespace = argparse.Namespace(x=1)
simple = types.SimpleNamespace(y=1)
shared_list = ITEMS
derived = len(ITEMS)
model = None
function = len
hooks = []


def get(name):
    return globals()[name]


def everything():
    return {
        "N": N, "TEXT": TEXT, "NOTHING": NOTHING, "PATH": PATH, "MODE": MODE, "ITEMS": ITEMS, "TABLE": TABLE,
        "TUPLE": TUPLE, "SET": SET, "NAN": repr(NAN), "options": options, "namespace": namespace, "simple": simple,
        "derived": derived, "level": Config.level, "table": Config.table, "get": Config().get(), "child": Child.level,
        "model": model and model.describe(), "function": function("abc"), "hooks": [hook() for hook in hooks],
        "aliased": shared_list is ITEMS,
    }  # fmt: skip


def load():
    global model
    model = Model(7)


class Model:
    def __init__(self, size):
        self.size = size

    def describe(self):
        return f"model of {self.size}"
