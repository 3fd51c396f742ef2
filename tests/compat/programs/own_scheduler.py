# Jobs are submitted by the program itself when a node has nothing to do, each with a file of its own.
# job computation runs at dispynode servers
def compute(path):
    import hashlib, time
    csum = hashlib.sha1()
    with open(os.path.basename(path), 'rb') as fd:
        while True:
            data = fd.read(1024000)
            if not data:
                break
            csum.update(data)
    time.sleep(0.02)
    return csum.hexdigest()

# 'cluster_status' callback function. It is called by dispy (client)
# to indicate node / job status changes. Here node initialization and
# job done status are used to schedule jobs, so at most one job is
# running on a node (even if a node has more than one processor). Data
# files are assumed to be 'data000', 'data001' etc.
def status_cb(status, node, job):
    if status == dispy.DispyJob.Finished:
        print('sha1sum for %s: %s' % (job.id, job.result))
        sums[job.id] = job.result
        running.remove(job)
    elif status == dispy.DispyJob.Terminated:
        print('sha1sum for %s failed: %s' % (job.id, job.exception))
        running.remove(job)
    elif status == dispy.DispyNode.Initialized:
        print('node %s with %s CPUs available' % (node.ip_addr, node.avail_cpus))
    else: # ignore other status messages
        return

    global submitted
    if submitted >= len(data_files):
        if len(sums) == len(data_files):
            done.set()
        return
    data_file = data_files[submitted]
    submitted += 1
    # 'node' and 'dispy_job_depends' are consumed by dispy;
    # 'compute' is called with only 'data_file' as argument(s)
    job = cluster.submit_node(node, data_file, dispy_job_depends=[data_file])
    if not job:
        print('submit of %s to %s failed' % (data_file, node.ip_addr))
        return
    job.id = data_file
    running.add(job)

if __name__ == '__main__':
    import dispy, sys, os, threading, hashlib
    done = threading.Event()
    data_files = []
    # elsewhere than this program: such files are found by their base names
    data_dir = os.path.join(os.path.dirname(os.getcwd()), 'data')
    os.mkdir(data_dir)
    for i in range(6):
        data_files.append(os.path.join(data_dir, 'data%03d' % i))
    for i, name in enumerate(data_files):
        with open(name, 'w') as fd:
            fd.write('%d ' % i * 1000)
    submitted, running, sums = 0, set(), {}
    cluster = dispy.JobCluster(compute, cluster_status=status_cb)
    assert done.wait(25)
    cluster.close()
    expected = [hashlib.sha1(open(name, 'rb').read()).hexdigest() for name in data_files]
    assert sorted(sums.values()) == sorted(expected), sums
