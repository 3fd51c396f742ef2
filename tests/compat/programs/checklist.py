# What programs rely on, point by point.
import dispy, threading, os, sys, time

def compute(n):
    if n == 'exception':
        raise ValueError('as asked')
    if n == 'provisional':
        dispy_provisional_result('half')
    print('computed %s' % n)
    print('warned %s' % n, file=sys.stderr)
    return (os.getpid() > 0, time.time() > 0, dispy_node_name, dispy_node_ip_addr, helper(n))

def helper(n):
    return '%s on %s' % (n, dispy_node_name)

class Recorder(object):
    def __init__(self):
        self.events = []
    def on_job(self, job):
        self.events.append((job.status, job.id, job.ip_addr))
    def on_cluster(self, status, node, job):
        self.statuses.append(status)
        if status == dispy.DispyNode.Initialized:
            cluster.discover_nodes(['127.0.0.1'])
            self.first = cluster.submit_node(node, 'from callback')
    statuses = []

def setup():
    global table
    table = {'a': 1}
    return 0

def cleanup():
    global table
    with open(os.path.join(mark), 'w') as fd:
        fd.write(str(table))

def read_table(key):
    return table[key]

if __name__ == '__main__':
    recorder = Recorder()
    cluster = dispy.JobCluster(compute, depends=[helper], job_status=recorder.on_job,
                               cluster_status=recorder.on_cluster, loglevel=dispy.logger.ERROR)
    job = cluster.submit('plain')
    job.id = 'mine'
    jobs = set([job])
    ok, ok2, name, ip_addr, text = job()
    assert ok and ok2 and text == 'plain on ' + name and ip_addr == job.ip_addr
    assert job in jobs and {job: 1}[job] == 1 and isinstance(job, dispy.DispyJob)
    assert job.stdout == 'computed plain\n' and job.stderr == 'warned plain\n'
    assert job.start_time <= job.end_time
    failing = cluster.submit('exception')
    assert failing() is None and failing.status == dispy.DispyJob.Terminated
    assert 'as asked' in failing.exception and failing.result is None
    half = cluster.submit('provisional')
    half()
    answers = []
    def from_thread():
        mine = cluster.submit('thread')
        answers.append(mine())
        other = cluster.submit('cancelled')
        cluster.cancel(other)
        answers.append(other.status)
    thread = threading.Thread(target=from_thread)
    thread.start()
    thread.join()
    assert answers[0][4].startswith('thread on')
    while not hasattr(recorder, 'first'): # callbacks have a thread of their own
        time.sleep(0.01)
    assert recorder.first()[4].startswith('from callback')
    cluster.wait()
    cluster.close()
    statuses = [status for status, id_, ip in recorder.events]
    assert dispy.DispyJob.ProvisionalResult in statuses and dispy.DispyJob.Terminated in statuses
    assert ('mine' in [id_ for status, id_, ip in recorder.events]
            or dispy.DispyJob.Finished in statuses)
    for status in (dispy.DispyJob.Created, dispy.DispyJob.Finished, dispy.DispyJob.ProvisionalResult, dispy.DispyNode.Initialized):
        assert status in recorder.statuses, (status, recorder.statuses)

    import functools
    mark = os.path.abspath('mark')
    def named_setup(where):
        global table, mark
        table = {'a': 1}
        mark = where
        return 0
    def named_cleanup(where):
        with open(where, 'w') as fd:
            fd.write(str(table))
    cluster = dispy.JobCluster(read_table, nodes=[dispy.NodeAllocate('*', setup_args=(mark,))], setup=named_setup,
                               cleanup=named_cleanup)
    assert cluster.submit('a')() == 1
    cluster.close()
    for _ in range(100):
        if os.path.exists('mark') and open('mark').read():
            break
        time.sleep(0.05)
    assert open('mark').read() == "{'a': 1}"
    print('all as it was')
