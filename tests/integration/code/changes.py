"""The program changes things after it has sent them: what jobs see then, as docs/explanation/code.md has it in its table."""

import importlib
import pathlib
import sys

import dispy
from harness import expect

N = 1
TABLE = {"a": 1}
counter = 0
cache = {}
MISSING = object()


class Config:
    level = 1
    items = [1]

    def get(self):
        return self.level, N


class Model:
    def rate(self):
        return 1


class Alone:
    """Not used by any computation: it comes with arguments alone."""

    level = 1

    def get(self):
        return self.level, N


def work():
    return Config.level, N, dict(TABLE), Model().rate()


def apply(function, *args):
    return function(*args)


def look(obj):
    return obj.get()


def is_config(obj):
    return isinstance(obj, Config), Config.level


def count():
    global counter
    counter += 1
    cache[counter] = True
    return counter, N, len(cache)


def use(x=None):
    return N, dict(TABLE), x


def rate(model):
    return model.rate()


def run(function, *args, **options):
    with dispy.JobCluster(function, nodes=[ONE], **options) as cluster:
        job = cluster.submit(*args)
        return job() if not (job() is None and job.exception) else job.exception


ONE = dispy.NodeAllocate("*")


class OneCpu(dispy.NodeAllocate):
    """One CPU of the node: then all jobs of a cluster run in one worker."""

    def allocate(self, cluster, ip_addr, name, cpus, *rest):
        return 1


ONE = OneCpu("*")


def next_cluster():
    """What has changed is seen by the next cluster."""
    global N
    expect("first", run(work), (1, 1, {"a": 1}, 1))
    Config.level = 2
    expect("class attribute", run(work)[0], 2)
    N = 3
    expect("global", run(work)[1], 3)
    TABLE["b"] = 2
    expect("content of a global", run(work)[2], {"a": 1, "b": 2})
    Model.rate = lambda self: 5
    expect("method", run(work)[3], 5)
    Config.items.append(7)
    expect("content of a class attribute", run(lambda: Config.items), [1, 7])
    Config.extra = "new"
    expect("new class attribute", run(lambda: Config.extra), "new")
    del Config.extra
    expect("deleted class attribute", run(lambda: hasattr(Config, "extra")), False)


def same_cluster():
    """Arguments are as they are at ``submit``; the computation is as it was when the cluster was made."""
    global N
    N = 1
    Alone.level = 1
    with dispy.JobCluster(look, nodes=[ONE]) as cluster:
        expect("class of an argument", cluster.submit(Alone())(), (1, 1))
        Alone.level = 2
        expect("its attribute has changed", cluster.submit(Alone())(), (2, 1))
        Alone.get = lambda self: ("new", self.level)
        expect("its method has changed", cluster.submit(Alone())(), ("new", 2))
        old = Alone()

        class Again:
            def get(self):
                return "another class of this name"

        Again.__name__ = Again.__qualname__ = "Alone"
        globals()["Alone"] = Again
        expect("defined anew", cluster.submit(Again())(), "another class of this name")
        expect("an object of the old class", cluster.submit(old)(), ("new", 2))
    with dispy.JobCluster(apply, nodes=[ONE]) as cluster:
        expect("function as argument", cluster.submit(use)(), (1, dict(TABLE), None))
        N = 2
        expect("its global has changed", cluster.submit(use)()[0], 2)
        TABLE["c"] = 3
        expect("content of its global", cluster.submit(use)()[1], dict(TABLE))
        use.__defaults__ = (9,)
        expect("its default", cluster.submit(use)()[2], 9)
        captured = [1]
        closure = lambda: list(captured)
        expect("closure", cluster.submit(closure)(), [1])
        captured.append(2)
        expect("its variable", cluster.submit(closure)(), [1, 2])
        expect("state of a worker stays", [cluster.submit(count)()[0] for _ in range(3)], [1, 2, 3])
        N = 5
        expect("and takes what has changed", cluster.submit(count)(), (4, 5, 4))


def put_back():
    """A job with changed code among its arguments changes nothing for those after it."""
    global N
    N = 1
    Config.level = 1

    def both(function=None, obj=None):
        return N, Config.level, function and function(), obj and obj.get()

    with dispy.JobCluster(both, nodes=[ONE]) as cluster:
        expect("before", cluster.submit()(), (1, 1, None, None))
        N = 2
        Config.level = 2
        expect("with both", cluster.submit(use, Config())(), (2, 2, (2, dict(TABLE), 9), (2, 2)))
        expect("after", cluster.submit()(), (1, 1, None, None))
        expect("again", cluster.submit(use, Config())()[:2], (2, 2))
        expect("a new attribute", cluster.submit(lambda: setattr(Config, "level", 77))()[:2], (2, 2))
        expect("after that", cluster.submit()(), (1, 1, None, None))
    with dispy.JobCluster(is_config, nodes=[ONE]) as cluster:
        expect("an object of the computation's class", cluster.submit(Config())(), (True, 2))
        Config.level = 3
        expect("is still one when the class has changed", cluster.submit(Config())(), (True, 3))


def modules():
    """Modules of the user's: what is set, reloaded, replaced."""
    path = pathlib.Path("changing.py")
    path.write_text(
        "N = 1\ndef f():\n    return N, 'first'\nclass C:\n    level = 1\n    def get(self):\n        return self.level\n"
    )
    importlib.invalidate_caches()
    import changing

    def ask():
        return changing.f(), changing.C.level

    expect("module", run(ask), ((1, "first"), 1))
    changing.N = 5
    changing.C.level = 6
    expect("its global is set", run(ask), ((5, "first"), 6))
    path.write_text("N = 1\ndef f():\n    return N, 'second edition'\nclass C:\n    level = 1\n")
    expect("its file was changed, which has no effect here", run(ask), ((5, "first"), 6))
    exec(compile(path.read_text(), str(path.resolve()), "exec"), vars(changing))
    changing.N = 2
    expect("functions put into it by a tool", run(ask), ((2, "second edition"), 1))
    importlib.reload(changing)
    expect("reloaded", run(ask), ((1, "second edition"), 1))
    changing.f = lambda: "patched"
    expect("a function was replaced", run(ask)[0], "patched")
    del sys.modules["changing"]
    path.with_name("other_changing.py").write_text("def f():\n    return 'other'\n")
    importlib.invalidate_caches()
    import other_changing

    expect("another module instead of it", run(other_changing.f), "other")
    expect("as an argument", run(apply, other_changing.f), "other")
    path.unlink()
    path.with_name("other_changing.py").unlink()


def redefined():
    """A function or class is defined again under its name, as in a notebook."""
    space = globals()
    exec(
        "def cell():\n    return 'one'\nclass Cell:\n    n = 1\n    def get(self):\n        return self.n",
        space,
    )
    expect("cell", run(space["cell"]), "one")
    with dispy.JobCluster(look, nodes=[ONE]) as cluster:
        expect("cell's class", cluster.submit(space["Cell"]())(), 1)
        exec(
            "def cell():\n    return 'two'\nclass Cell:\n    n = 2\n    def get(self):\n        return self.n",
            space,
        )
        expect("cell's class again", cluster.submit(space["Cell"]())(), 2)
    expect("cell again", run(space["cell"]), "two")
    expect("by another", run(lambda: (cell(), Cell().get())), ("two", 2))


if __name__ == "__main__":
    next_cluster()
    same_cluster()
    put_back()
    modules()
    redefined()
    print("done")
