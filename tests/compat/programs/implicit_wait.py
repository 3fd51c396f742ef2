# A program that does nothing at its end waits for its jobs.
import dispy, os

def compute(path):
    import time
    time.sleep(0.3)
    with open(path, 'a') as fd:
        fd.write('x')

def on_job(job):
    if job.status == dispy.DispyJob.Finished:
        print('ended')

if __name__ == '__main__':
    cluster = dispy.JobCluster(compute, job_status=on_job)
    for n in range(4):
        cluster.submit(os.path.abspath('waited'))
