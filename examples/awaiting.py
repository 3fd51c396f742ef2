"""Jobs in asyncio: each can be awaited, by any number of coroutines, and none of them blocks the loop."""

import asyncio

import dispy


def compute(n: float) -> float:
    import time

    if n < 0:
        raise ValueError(f"cannot sleep for {n} seconds")
    time.sleep(n)
    return n * 2


async def ask(cluster: dispy.JobCluster, n: float) -> float:
    job = cluster.submit(n)
    await job  # None if it failed
    return job.get() + 1  # which then raises what the job has raised


async def main() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    with dispy.JobCluster(compute) as cluster:
        ticking = asyncio.create_task(tick())
        values = await asyncio.gather(*[ask(cluster, n / 20) for n in range(10)])
        ticking.cancel()
        print(f"{values}, and the loop turned {ticks} times meanwhile")
        assert values == [n / 20 * 2 + 1 for n in range(10)]
        assert ticks > 3

        try:
            await ask(cluster, -1)
        except ValueError as error:
            print(f"failed: {error}")

        job = cluster.submit(60)
        try:
            await asyncio.wait_for(job, 0.2)
        except TimeoutError:
            print("too slow; cancelled")
            cluster.cancel(job)  # otherwise it would go on: a job does not end because nobody awaits it
        assert job.wait(10)
        assert job.status in (dispy.DispyJob.Cancelled, dispy.DispyJob.Terminated)


if __name__ == "__main__":
    asyncio.run(main())
