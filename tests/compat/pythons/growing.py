"""A cluster that gets nodes of several versions of Python while jobs with functions among their arguments wait."""

import sys

import dispy


def call(function, seconds=0.0):
    import time

    time.sleep(seconds)
    return function()


def version():
    return sys.version_info[:2]


def main():
    offset = int(sys.argv[1])
    cluster = dispy.JobCluster(call)
    first = [cluster.submit(lambda i=i: (i + offset, version()), 0.05) for i in range(20)]
    first[0].get(20)
    waiting = [cluster.submit(lambda i=i: (i + offset, version()), 0.05) for i in range(20)]
    print("ready", flush=True)
    input()
    results = [job.get(20) for job in [*first, *waiting]]
    assert [value for value, _ in results] == [i + offset for i in range(20)] * 2, results
    seen = set()
    for _ in range(400):
        jobs = [cluster.submit(lambda: version(), 0.01) for _ in range(8)]
        seen |= {job.get(20) for job in jobs}
        if len(seen) == int(sys.argv[2]):
            break
    print(sorted(seen))
    cluster.close()


if __name__ == "__main__":
    main()
