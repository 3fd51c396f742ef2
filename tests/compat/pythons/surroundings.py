"""All ways in which code and objects go between a program and nodes of another minor version of Python."""

import dataclasses
import enum
import sys

import dispy
from dispy.job import provisional_result


class Failure(Exception):
    def __init__(self, what, code):
        super().__init__(what)
        self.code = code


@dataclasses.dataclass
class Item:
    n: int

    def squared(self):
        return Item(self.n**2)


class State(enum.Enum):
    OPEN = 1
    SHUT = 2


prepared = []


def prepare(value, function):
    prepared.append(function(value))


def forget(value, function):
    prepared.clear()


def uses_setup(x):
    return prepared[0] + x


def raises(code):
    raise Failure("raised there", code)


def reports(n):
    for i in range(n):
        provisional_result((State.OPEN, Item(i), lambda: i))
    return State.SHUT, lambda x: x + n


def helped(x):
    return helper(x) + Helper().by(x)


def helper(x):
    return x * 100


class Helper:
    def by(self, x):
        return x + 1


def delegate(name, x):
    return globals()[name](x)


def squared(item):
    return item.squared()


def apply(function, value):
    return function(value)


def check(what, there, here):
    if there != here:
        print(f"DIFFERS {what}: here {here!r}, there {there!r}")


def main():
    cluster = dispy.JobCluster(uses_setup, setup=prepare, cleanup=forget, setup_per="node",
                               nodes=[dispy.NodeAllocate("127.0.0.1", setup_args=(3, lambda x: x * 10))])  # fmt: skip
    check("setup with a function", cluster.submit(1).get(20), 31)
    cluster.close()

    cluster = dispy.JobCluster(raises)
    job = cluster.submit(7)
    job.wait()
    check(
        "an exception of the script",
        (type(job.error), job.error.code, str(job.error)),
        (Failure, 7, "raised there"),
    )
    assert "raise Failure(" in job.exception, job.exception
    cluster.close()

    seen = []
    cluster = dispy.JobCluster(reports, job_status=lambda job: seen.append((job.status, job.result)))
    status, add = cluster.submit(2).get(20)
    check("a function as a result", (status is State.SHUT, add(5)), (True, 7))
    cluster.wait()
    values = [result for state, result in seen if state == dispy.DispyJob.ProvisionalResult]
    check(
        "provisional results",
        [(a is State.OPEN, b, c()) for a, b, c in values],
        [(True, Item(0), 0), (True, Item(1), 1)],
    )
    cluster.close()

    cluster = dispy.JobCluster(helped, depends=[helper, Helper])
    check("depends", cluster.submit(2).get(20), 203)
    cluster.close()

    cluster = dispy.JobCluster(delegate)
    check("depends of a job", cluster.submit("helper", 2, dispy_job_depends=[helper]).get(20), 200)
    cluster.close()

    cluster = dispy.JobCluster(squared)
    check(
        "map of objects", list(cluster.map([Item(n) for n in range(50)])), [Item(n * n) for n in range(50)]
    )
    cluster.close()

    cluster = dispy.JobCluster(apply)
    table = cluster.put({"f": lambda x: x - 1, "item": Item(4)})
    check(
        "an object that was put",
        cluster.submit(lambda t: (t["f"](3), t["item"]), table).get(20),
        (2, Item(4)),
    )
    check(
        "a function twice",
        [cluster.submit(len, "abc").get(20), cluster.submit(Item, 3).get(20)],
        [3, Item(3)],
    )
    job = cluster.submit(lambda x: [lambda: x, (lambda: x * 2), State], 4)
    first, second, state = job.get(20)
    check("functions of a job", (first(), second(), state is State), (4, 8, True))
    check("a function that comes back", cluster.submit(lambda f: f(), second).get(20), 8)
    made = eval("lambda x: x + 1")
    job = cluster.submit(made, 1)
    job.wait()
    assert (job.result == 2) if same else ("<lambda>" in job.exception and "source" in job.exception), (
        job.exception
    )
    cluster.close()

    with dispy.Executor() as pool:
        check("an executor", pool.submit(lambda x: Item(x), 3).result(20), Item(3))
        check("a map of an executor", list(pool.map(lambda x: x + offset, range(5))), list(range(5, 10)))

    cluster = dispy.JobCluster(version)
    print("done", version(), cluster.submit().get(20))
    cluster.close()


offset = 5


def version():
    return sys.version_info[:2]


same = "same" in sys.argv

if __name__ == "__main__":
    main()
