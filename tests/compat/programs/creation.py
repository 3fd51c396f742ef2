# The ways to make a cluster that the manual shows.
import dispy, os, platform, sys

class ClassA(object):
    def __init__(self, n):
        self.n = n
    def double(self):
        return 2 * self.n

def compute(n):
    return ClassA(n).double() + moduleb.VALUE + int(open('file1').read()) if n else (os.getcwd(), dispy_job_path)

def plain(n):
    return n + 1

class BigLinux(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform='*'):
        import re
        if not re.match('linux', platform, re.IGNORECASE):
            return 0
        if avail_info is not None and (avail_info.memory < 1024 * 1024 or avail_info.disk < 1024):
            return 0
        return cpus

def check(function, expected, *args, **kwargs):
    cluster = dispy.JobCluster(function, **kwargs)
    job = cluster.submit(*args)
    assert job() == expected, (kwargs, job.result, job.exception)
    cluster.close()
    print('fine: %s' % sorted(kwargs))

if __name__ == '__main__':
    with open('moduleb.py', 'w') as fd:
        fd.write('VALUE = 100\n')
    with open('file1', 'w') as fd:
        fd.write('1000')
    sys.path.insert(0, os.getcwd())
    import moduleb
    check(compute, 1104, 2, depends=[ClassA, moduleb, 'file1'])
    check(plain, 2, 1, nodes=['127.0.0.1'])
    check(plain, 2, 1, nodes=['localhost', '127.0.0.*'])
    check(plain, 2, 1, nodes='*')
    check(plain, 2, 1, nodes='127.0.0.*')
    check(plain, 2, 1, nodes=[('127.0.0.1', None, 1)])
    check(plain, 2, 1, nodes=[dispy.NodeAllocate('127.0.0.1', cpus=1)])
    check(plain, 2, 1, nodes=[BigLinux('*')])
    check(plain, 2, 1, host='127.0.0.1')
    check(plain, 2, 1, host=['127.0.0.1'])
    check(plain, 2, 1, ip_addr='127.0.0.1')
    check(plain, 2, 1, pulse_interval=5, ping_interval=10, reentrant=True)
    check(plain, 2, 1, loglevel=dispy.logger.DEBUG)
    where, known = None, None
    for _ in range(2):
        cluster = dispy.JobCluster(compute, depends=['file1'], dest_path='mine', cleanup=False)
        where, known = cluster.submit(0)()
        assert where == known
        assert os.path.basename(where) == 'mine', where
        cluster.close()
        assert os.path.isfile(os.path.join(where, 'file1'))
    # whoever uses it last without cleanup=False removes it
    cluster = dispy.JobCluster(compute, dest_path='mine')
    assert cluster.submit(0)()[0] == where
    cluster.close()
