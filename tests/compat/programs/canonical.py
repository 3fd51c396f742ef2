# The smallest program.
def compute(n):
    import time, socket
    time.sleep(n)
    host = socket.gethostname()
    return (host, n)

if __name__ == '__main__':
    import dispy, random
    cluster = dispy.JobCluster(compute)
    jobs = []
    for i in range(10):
        # schedule execution of 'compute' on a node (running 'dispynode')
        job = cluster.submit(random.uniform(0.05, 0.2))
        job.id = i # optionally associate an ID to job (if needed later)
        jobs.append(job)
    # cluster.wait() # wait for all scheduled jobs to finish
    for job in jobs:
        host, n = job() # waits for job to finish and returns results
        print('%s executed job %s at %s with %s' % (host, job.id, job.start_time, n))
        # other fields of 'job' that may be useful:
        print(job.exception, job.stdout, job.stderr, job.id, job.ip_addr, job.start_time, job.end_time)
    cluster.print_status()
    assert [job.id for job in jobs] == list(range(10))
    assert all(job.status == dispy.DispyJob.Finished for job in jobs)
