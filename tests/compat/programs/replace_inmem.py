# Data in memory is replaced by other data on each node.
import dispy, os, sys, threading

class NodeAllocate(dispy.NodeAllocate):
    def allocate(self, cluster, ip_addr, name, cpus, avail_info=None, platform='*'):
        global file_id
        data_file = data_files[file_id]
        file_id += 1
        self.depends = [data_file]
        self.setup_args = (os.path.basename(data_file), file_id)
        return min(2, cpus)

def setup(data_file, n):
    global data, label
    with open(data_file) as fd:
        data = fd.read()
    label = '%s:%s' % (data_file, n)
    os.remove(data_file)
    return 0

def cleanup(data_file, n):
    global data, label
    assert label == '%s:%s' % (data_file, n), label
    del data, label

def compute(n):
    time.sleep(0.02)
    return (dispy_node_ip_addr, label, len(data))

if __name__ == '__main__':
    data_files = []
    for i in range(4):
        data_files.append('replace%d.dat' % i)
        with open(data_files[-1], 'w') as fd:
            fd.write('x' * (i + 1))
    file_id = 0
    nodes = {}
    def status(event, node, job):
        if event == dispy.DispyNode.Initialized:
            nodes[node.ip_addr] = node
    cluster = dispy.JobCluster(compute, nodes=[NodeAllocate('*')], setup=setup, cleanup=cleanup,
                               cluster_status=status)
    def run():
        jobs = [cluster.submit(n) for n in range(6)]
        found = set()
        for job in jobs:
            result = job()
            assert job.status == dispy.DispyJob.Finished, job.exception
            found.add(result)
        for result in sorted(found):
            print('%s has %s with %s bytes' % result)
        return found
    before = run()
    assert {result[1] for result in before} == {'replace0.dat:1'}, before
    while not nodes: # callbacks have a thread of their own
        threading.Event().wait(0.01)
    for ip_addr in list(nodes):
        cluster.resetup_node(ip_addr)
    after = run()
    assert {result[1] for result in after} == {'replace1.dat:2'}, after
    cluster.close()
