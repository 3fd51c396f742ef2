# Jobs send better and better results; one that is good enough ends all.
def compute(n): # executed on nodes
    import random, time, socket
    name = socket.gethostname()
    cur_best = 1
    for i in range(0, n):
        r = random.uniform(0, 1)
        if r <= cur_best:
            # possible result
            cur_best = r
            dispy_provisional_result((name, r))
        time.sleep(0.005)
    # final result
    return (name, cur_best)

def job_callback(job): # executed at the client
    if job.status == dispy.DispyJob.ProvisionalResult:
        values.append(job.result)
        if job.result[1] < 0.005:
            # acceptable result; terminate jobs
            print('%s computed: %s' % (job.result[0], job.result[1]))
            # 'jobs' and 'cluster' are created in '__main__' below
            for j in jobs:
                if j.status in [dispy.DispyJob.Created, dispy.DispyJob.Running,
                                dispy.DispyJob.ProvisionalResult]:
                    cluster.cancel(j)

if __name__ == '__main__':
    import dispy
    values = []
    cluster = dispy.JobCluster(compute, callback=job_callback)
    jobs = []
    for n in range(8):
        job = cluster.submit(3000)
        if job is None:
            print('creating job %s failed!' % n)
            continue
        job.id = n
        jobs.append(job)
    cluster.wait()
    cluster.stats()
    cluster.close()
    assert min(value for name, value in values) < 0.005
    ended = (dispy.DispyJob.Finished, dispy.DispyJob.Terminated, dispy.DispyJob.Cancelled)
    assert all(job.status in ended for job in jobs), [job.status for job in jobs]
