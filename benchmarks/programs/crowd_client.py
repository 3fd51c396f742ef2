"""A client of many nodes: prints the seconds until all of them can be used. Arguments: secret, ports."""

from __future__ import annotations

import sys
import threading
import time

from dispy import DispyNode, JobCluster


def main() -> None:
    """Entry."""
    ports = list(map(int, sys.argv[2:]))
    left = len(ports)
    all_ready = threading.Event()

    def on_status(status: int, found: DispyNode | None, job: object) -> None:
        nonlocal left
        if status == DispyNode.Initialized:
            left -= 1
            if not left:
                all_ready.set()

    start = time.perf_counter()
    cluster = JobCluster(
        time.sleep,
        nodes=[("127.0.0.1", port) for port in ports],
        cluster_status=on_status,
        secret=sys.argv[1],
        tls=True,
    )
    if not all_ready.wait(40):
        raise RuntimeError(f"{left} of {len(ports)} nodes are not ready")
    print(time.perf_counter() - start)
    cluster.close(terminate=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
