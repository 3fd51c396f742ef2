"""Takes names from its neighbours, so that what they share has to stay one."""

from kept.settings import ITEMS, TABLE, Config, Mode, options
from kept.states import MISSING, lock, registry

from . import settings


def is_one():
    from kept import states

    return (
        ITEMS is settings.ITEMS, TABLE is settings.TABLE, options is settings.options, Config is settings.Config,
        Mode.FAST is settings.Mode.FAST, lock is states.lock, registry is states.registry, MISSING is states.MISSING,
    )  # fmt: skip
