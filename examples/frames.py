"""Jobs and nodes as pandas frames, and as the tables that notebooks show."""

import time

import dispy


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return 1 / seconds


if __name__ == "__main__":
    with dispy.JobCluster(slow) as cluster:
        jobs = [cluster.submit_job_id(f"<{tenths}>", tenths / 10) for tenths in range(4)]
        cluster.wait()
        page = cluster._repr_html_()  # a notebook asks for it, and shows it as a table
        assert "3 done, 1 failed" in page, page
        assert "&lt;0&gt;" in jobs[0]._repr_html_(), "nothing of yours is taken for markup"
        try:
            import pandas  # noqa: F401  # only to see whether it is here
        except ImportError:
            print("without pandas there are no frames")
        else:
            frame = dispy.frame(jobs)
            print(frame[["id", "status", "waited", "ran", "error"]].to_string())
            assert frame.status.to_list() == ["Terminated"] + ["Finished"] * 3
            assert frame.ran[3] >= 0.3, "the last one has slept so long"
            assert frame.error[0] == "ZeroDivisionError: float division by zero"
            nodes = cluster.status().frame()
            print(nodes[["node", "cpus", "jobs_done", "jobs_failed"]].to_string())
            assert nodes.jobs_done.sum() == 4
        assert jobs[0].exception
    print(cluster)
    assert "closed; 3 done, 1 failed; the first failure: ZeroDivisionError: float division" in repr(cluster)
