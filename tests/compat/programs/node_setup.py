# Data in memory: each node reads a file of its own once, jobs compute with it.
import dispy, os, sys, glob, threading

# a version of NodeAllocate that assigns a different file to each node
class NodeAllocate(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform='*'):
        global file_id
        with lock:
            data_file = data_files[file_id % len(data_files)]
            file_id += 1
        print('node %s gets "%s"' % (ip_addr, data_file))
        self.depends = [data_file] # file(s) to be transferred before setup
        self.setup_args = (os.path.basename(data_file),) # files are found by their base names
        return cpus

# executed on each node before any jobs are scheduled
def setup(data_file):
    # read data in file to global variable
    global data, algorithms, hashlib, file_name
    import hashlib
    data = open(data_file, 'rb').read()
    file_name = data_file
    algorithms = sorted(('md5', 'sha1', 'sha256'))
    os.remove(data_file)
    return 0

def cleanup(data_file):
    del globals()['data']

def compute(i, n):
    # execute function locally
    alg = algorithms[i % len(algorithms)]
    csum = getattr(hashlib, alg)()
    csum.update(data)
    time.sleep(n)
    return (dispy_node_ip_addr, file_name, alg, csum.hexdigest(), os.path.exists(file_name))

if __name__ == '__main__':
    import random
    lock = threading.Lock()
    for i in range(3):
        with open('part%d.txt' % i, 'w') as fd:
            fd.write('%d' % i * 10000)
    data_files = sorted(glob.glob('part*.txt'))
    file_id = 0
    cluster = dispy.JobCluster(compute, nodes=[NodeAllocate(host='*')], setup=setup, cleanup=cleanup,
                               loglevel=dispy.logger.INFO if hasattr(dispy.logger, 'INFO') else 20)
    jobs = []
    for n in range(10):
        job = cluster.submit(n, random.uniform(0.01, 0.05))
        job.id = n
        jobs.append(job)
    by_node = {}
    for job in jobs:
        job()
        if job.status == dispy.DispyJob.Finished:
            print('%s: %s, %s, %s' % job.result[:4])
            by_node.setdefault(job.result[0], set()).add(job.result[1])
            assert not job.result[4]
        else:
            raise SystemExit(job.exception)
    assert all(len(names) == 1 for names in by_node.values()), by_node
    cluster.close()
