# Jobs of a node update a value that setup has made.
def setup():
    # import multiprocessing module into global scope
    global multiprocessing, shvar
    import multiprocessing
    # initialize shvar
    shvar = multiprocessing.Value('i', 1)
    return 0

def cleanup():
    del globals()['shvar']

def compute():
    import random
    r = random.randint(1, 10)
    with shvar.get_lock():
        # update shvar
        shvar.value += r
        value = shvar.value
    return (dispy_node_name, r, value)

if __name__ == '__main__':
    import dispy
    cluster = dispy.JobCluster(compute, setup=setup, cleanup=cleanup)
    jobs = []
    for n in range(10):
        job = cluster.submit()
        job.id = n
        jobs.append(job)
    totals = {}
    for job in jobs:
        job()
        if job.status != dispy.DispyJob.Finished:
            raise SystemExit('job %s failed: %s' % (job.id, job.exception))
        name, r, value = job.result
        print('%s: %s added, now %s' % (name, r, value))
        totals.setdefault(name, []).append((value, r))
    for steps in totals.values():
        total = 1
        for value, r in sorted(steps):
            total += r
            assert total == value
    cluster.close()
