# Jobs without end; cancelled they return the best they have.
import dispy

class NodeAllocate(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform='*'):
        # use only 2 CPUs per node
        return min(cpus, 2)

def compute(n):
    import time, random
    best, last = 1.0, 0
    dispynode_logger.debug('job %s starts', n)
    try:
        while True:
            best = min(best, random.random())
            if time.time() - last > 0.1:
                last = time.time()
                dispy_provisional_result((n, best))
    except KeyboardInterrupt:
        pass
    return (n, best)

def cluster_status(status, node, job):
    global submitted
    if status == dispy.DispyNode.Initialized:
        for _ in range(min(node.avail_cpus, 2)):
            submitted += 1
            job = cluster.submit_node(node, submitted)
            jobs.add(job)
    elif status == dispy.DispyJob.ProvisionalResult:
        print('job %s: %s' % (job.id, job.result[1]))
        told[job.id] = job.result[1]
        # a job that has not started has nothing to return when it is cancelled
        if len(told) == len(jobs) and min(told.values()) < 0.001:
            good.set()

if __name__ == '__main__':
    import threading
    submitted, jobs, told, good = 0, set(), {}, threading.Event()
    cluster = dispy.JobCluster(compute, nodes=[NodeAllocate('*')], cluster_status=cluster_status)
    assert good.wait(25)
    for job in jobs:
        if job.status in (dispy.DispyJob.Created, dispy.DispyJob.Running, dispy.DispyJob.ProvisionalResult):
            cluster.cancel(job)
    cluster.wait()
    for job in jobs:
        n, best = job.result
        assert isinstance(job, dispy.DispyJob)
        assert job.status == dispy.DispyJob.Finished
    print('best: %s' % min(job.result[1] for job in jobs))
    cluster.close()
