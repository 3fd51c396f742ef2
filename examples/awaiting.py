"""Jobs in asyncio: nothing here blocks the loop, and a task that ends takes its job along where that is wanted."""

import asyncio

import dispy


def compute(n: float) -> float:
    import time

    if n < 0:
        raise ValueError(f"cannot sleep for {n} seconds")
    time.sleep(n)
    return n * 2


async def main() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with dispy.JobCluster(compute, max_queued=4) as cluster:
        # While four jobs have not ended, asubmit waits: a fast producer does not run away.
        jobs = [await cluster.asubmit(n / 20) for n in range(10)]
        values = await asyncio.gather(*jobs)
        print(f"{values}, and the loop turned {ticks} times meanwhile")
        assert values == [n / 10 for n in range(10)]
        assert ticks > 3

        results = [result async for result in cluster.amap([0.01] * 20)]
        assert results == [0.02] * 20

        slow, quick = await cluster.asubmit(0.3), await cluster.asubmit(0)
        ended = [job async for job in dispy.aas_completed([slow, quick], timeout=60)]
        assert ended == [quick, slow]
        print(f"{len(results)} results of a map; of two jobs the quick one came first")

        bad = await cluster.asubmit(-1)
        try:
            await bad.aget()  # raises what the job has raised; await bad would give None
            raise AssertionError("it should have failed")
        except ValueError as error:
            print(f"failed: {error}")

        job = await cluster.asubmit(60)
        try:
            await job.aget(timeout=0.2, cancel=True)  # without cancel=True the job would go on
            raise AssertionError("it should have been too slow")
        except TimeoutError as error:
            print(f"{error}; cancelled")
    assert job.done()
    assert job.status in (dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated)

    # A block that is cancelled cancels its jobs: here by a time limit around it.
    try:
        async with asyncio.timeout(0.5), dispy.JobCluster(compute) as cluster:
            forgotten = cluster.submit(60)
    except TimeoutError:
        print("the time was over, and so is the job:", forgotten)
    assert forgotten.done()
    ticking.cancel()


if __name__ == "__main__":
    asyncio.run(main())
