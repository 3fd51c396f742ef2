"""A program for a pool of processes with one line changed: futures, a map, a dead process, a call that is killed."""

import os
import time
from concurrent.futures import CancelledError, as_completed

import dispy

FACTOR = 2


def scaled(number: int) -> int:
    return number * FACTOR


if __name__ == "__main__":
    with dispy.Executor() as pool:  # was: with ProcessPoolExecutor() as pool:
        futures = [pool.submit(scaled, number) for number in range(20)]
        results = sorted(future.result() for future in as_completed(futures))
        assert results == list(range(0, 40, 2)), results
        FACTOR = 3  # the next call has it
        assert sum(pool.map(scaled, range(1000))) == 3 * 499_500
        died = pool.submit(os._exit, 1)
        try:
            died.result()
        except dispy.WorkerDied as error:
            print(f"one call has failed, and the others go on: {error}")
        else:
            raise AssertionError("the process has not died")
        late = pool.submit(time.sleep, 3600)
        assert late.kill()
        try:
            late.result()
        except CancelledError:
            print("killed before its time")
        assert pool.submit(pow, 2, 10).result() == 1024
    print("all calls have ended")
