# Output of a program is bytes, its result the exit code.
import sys, dispy

with open('talk.sh', 'w') as fd:
    fd.write('#!/bin/sh\necho "to $1"; echo "no $1" >&2; echo "$dispy_node_name"; exit 3\n')

if __name__ == '__main__':
    import os
    os.chmod('talk.sh', 0o755)
    cluster = dispy.JobCluster('talk.sh')
    job = cluster.submit('here')
    assert job() == 3
    print(job.stdout, job.stderr)
    assert job.stdout.startswith(b'to here\n')
    assert len(job.stdout.splitlines()[1]) > 0
    assert job.stderr == b'no here\n'
    assert job.status == dispy.DispyJob.Finished
    cluster.close()
