# A script is run once on each node, to update it.
import dispy, threading

with open('node_update_script.py', 'w') as fd:
    fd.write('''import os, sys
print('updated to ' + sys.argv[1] + ' in ' + os.path.basename(os.getcwd()))
''')

def cluster_status(status, node, job):
    if status == dispy.DispyNode.Initialized:
        job = cluster.submit_node(node, '2.0')
        if job:
            job.id = node.ip_addr
            jobs[node.ip_addr] = job
            seen.set()

if __name__ == '__main__':
    jobs, seen = {}, threading.Event()
    cluster = dispy.JobCluster('node_update_script.py', cluster_status=cluster_status)
    while not seen.wait(0.3):
        cluster.discover_nodes(['*'])
    cluster.wait()
    for ip_addr, job in jobs.items():
        if job.status == dispy.DispyJob.Finished and job.result == 0:
            print('%s: %s' % (ip_addr, job.stdout.decode()))
            assert job.stdout.startswith(b'updated to 2.0')
        else:
            raise SystemExit('%s failed: %s %s' % (ip_addr, job.stderr, job.exception))
    cluster.close()
