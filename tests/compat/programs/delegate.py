# One small function as computation; what is really wanted is sent with each job, and gone after it.
def func1(n):
    import time
    time.sleep(0.02)
    return dispy_node_name + ': one ' + str(n)

def func2(n):
    return dispy_node_name + ': two ' + str(n)

def delegate(fname, n):
    # get function with given name (this function would've been sent with 'dispy_job_depends')
    func = globals()[fname]
    return func(n)

def present(fname):
    return fname in globals()

if __name__ == '__main__':
    import dispy
    cluster = dispy.JobCluster(delegate)
    jobs = []
    for i in range(4):
        func = func1 if i % 2 == 0 else func2
        job = cluster.submit(func.__name__, i, dispy_job_depends=[func])
        if not job:
            print('Failed to create job %s' % i)
            continue
        job.id = i
        jobs.append(job)
    for job in jobs:
        ret = job()
        print('%s: %s (%s)' % (job.id, ret, job.exception))
        assert ret.endswith('one %d' % job.id if job.id % 2 == 0 else 'two %d' % job.id), ret
    job = cluster.submit('func1', 1)
    assert job() is None
    assert 'KeyError' in job.exception, job.exception
    cluster.close()
