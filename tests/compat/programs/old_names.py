# Names that older releases had.
import dispy, functools, logging

def compute(n):
    return helper(n)

def helper(n):
    return n + offset

offset = 7

def prepare(n):
    global base
    base = n
    return 0

def with_base(n):
    return n + base

class Program(object):
    def __init__(self):
        self.ended = []
    def on_job(self, job):
        self.ended.append(job.result)

if __name__ == '__main__':
    assert dispy.MsgTimeout > 0
    program = Program()
    cluster = dispy.JobCluster(compute, nodes='127.0.0.*', callback=program.on_job, ip_addr=None, loglevel=logging.DEBUG)
    assert cluster.submit(1)() == 8
    cluster.stats()
    cluster.close()
    assert program.ended == [8]
    cluster = dispy.JobCluster(with_base, setup=functools.partial(prepare, 5))
    assert cluster.submit(1)() == 6
    cluster.close()
    print('as before')
