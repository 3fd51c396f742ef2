"""State of the user's modules: made where jobs run, configured by the program, one wherever it is used."""

import importlib
import pickle
import sys

import kept.importing
import kept.settings as settings
from kept import states
from kept.settings import Config, Mode, Model, Options, everything, options
from kept.states import MISSING, is_missing, lock, registry, use

import harness

settings.N = 100
settings.TEXT = "other"
settings.NOTHING = [1]
settings.PATH = settings.PATH / "b"
settings.MODE = Mode.SLOW
settings.ITEMS.append(3)
settings.TABLE["a"]["c"] = 5
settings.TUPLE += (3,)
settings.SET.add(2)
options.level = 9
options.names.append("x")
settings.namespace.z = 3
settings.simple.y = 2
settings.Config.level = 4
settings.Config.table["b"] = 2
settings.load()
settings.extra = "from outside"


@states.register
def second():
    return "second of the script"


def hook():
    return CONSTANT


CONSTANT = "constant of the script"
settings.hooks.append(hook)
settings.function = lambda text: len(text) + len(CONSTANT)
sentinel = object()


def check_everything_is_configured():
    return everything(), settings.extra


def check_use_of_what_cannot_be_pickled():
    return use()


def check_use_by_module():
    return states.use()


def check_use_of_imported_names():
    with lock:
        return sorted(registry), registry["second"](), is_missing(MISSING), lock is states.lock


def check_use_of_what_is_imported_in_the_job():
    from kept import states as again
    from kept.settings import get

    return again.use(), get("N"), again is states, get("model").describe()


def check_attribute_is_set():
    before = settings.N
    settings.N = 7
    try:
        return settings.get("N"), everything()["N"]
    finally:
        settings.N = before


def check_one_identity():
    return (
        kept.importing.is_one(),
        Config is settings.Config,
        options is settings.options,
        Mode.FAST is settings.Mode.FAST,
    )


def check_modules():
    return [
        (module.__name__, module.__package__, module.__spec__.name, module is sys.modules[module.__name__])
        for module in map(importlib.import_module, ("kept", "kept.states", "kept.settings"))
    ]


def check_pickles():
    items = [Mode.SLOW, Options(2), Config, Model, use]
    return [pickle.loads(pickle.dumps(item)) == item for item in items]


def check_sentinel_of_the_script():
    return sentinel is sentinel, registry["first"]()


def call(check):
    return check()


def by_name(name):
    return globals()[name]()


def same(value, name):
    found = getattr(settings, name, None) or getattr(states, name, None) or globals()[name]
    return value is found, value


def with_classes(option, mode, model):
    return type(option) is Options, mode is Mode.SLOW, type(model) is Model, option, mode, model


if __name__ == "__main__":
    import dispy

    harness.main(globals(), call, by_name)
    with dispy.JobCluster(same) as cluster:
        for name, value in (
            ("MISSING", MISSING),
            ("sentinel", sentinel),
            ("Mode", Mode),
            ("Config", Config),
        ):
            job = cluster.submit(value, name)
            if job() is None or job()[0] is not True or job()[1] is not value:
                print("DIFFERS", name, job.result, job.exception)
    with dispy.JobCluster(with_classes) as cluster:
        job = cluster.submit(options, Mode.SLOW, settings.model)
        found = job()
        if (
            not found
            or found[:3] != (True, True, True)
            or found[3] != options
            or type(found[5]) is not Model
        ):
            print("DIFFERS", found, job.exception)
