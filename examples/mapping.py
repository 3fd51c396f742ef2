"""A function over very many items: results in order, as an iterator, in chunks that fit how long items take."""

import itertools

import dispy


def square(n: int) -> int:
    return n * n


def check(n: int) -> int:
    if n == 1234:
        raise ValueError("this one is bad")
    return n


def volume(width: int, depth: int, height: int) -> int:
    return width * depth * height


if __name__ == "__main__":
    with dispy.JobCluster(square) as cluster:
        total = sum(cluster.map(range(200_000)))
        print(f"the sum of 200,000 squares is {total}")
        assert total == sum(n * n for n in range(200_000))

        # Items are read as they are needed, so there may be no end of them; leaving the loop cancels the rest.
        for value in cluster.map(itertools.count()):
            if value > 1_000_000:
                break
        print(f"the first square above a million is {value}")
        assert value == 1001**2

    with dispy.JobCluster(check) as cluster:
        done = []
        try:
            for value in cluster.map(range(10_000)):
                done += [value]
        except ValueError as error:
            print(f"{len(done)} results, then {type(error).__name__}: {error}")
        assert done == list(range(1234)), "results before it are there"

        # Or the error stays in its place, and the rest goes on.
        results = list(cluster.map(range(10_000), return_exceptions=True))
        failed = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        print(f"{len(results)} results, of which {failed} are exceptions")
        assert failed == [1234]

    with dispy.JobCluster(volume) as cluster:
        grid = list(itertools.product(range(1, 4), range(1, 4)))
        volumes = list(cluster.starmap(grid, constants={"height": 10}))
        print("volumes:", volumes)
        assert volumes == [10 * width * depth for width, depth in grid]
