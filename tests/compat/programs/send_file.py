# Jobs send files to the program.
def compute(n):
    import time
    path = '%s.dat' % n
    with open(path, 'w') as fd:
        for i in range(n):
            fd.write('%s\n' % i)
    os.makedirs('sub', exist_ok=True)
    with open(os.path.join('sub', path), 'w') as fd:
        fd.write('below')
    return dispy_send_file(path) + dispy_send_file(os.path.join('sub', path))

if __name__ == '__main__':
    import dispy, os
    cluster = dispy.JobCluster(compute)
    jobs = []
    for n in range(3, 8):
        job = cluster.submit(n)
        job.id = n
        jobs.append(job)
    for job in jobs:
        assert job() == 0, job.exception or job.result
        name = '%s.dat' % job.id
        assert len(open(name).readlines()) == job.id
        assert open(os.path.join('sub', name)).read() == 'below'
        print('%s is here' % name)
    missing = cluster.submit(-1)
    missing()
    cluster.close()
