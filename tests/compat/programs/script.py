# A program as computation, fifty times; results are not looked at, and the program ends when all have run.
import os, dispy

with open('touch.py', 'w') as fd:
    fd.write('''import os, sys
open(os.path.join(sys.argv[2], 'ran.' + sys.argv[1]), 'w').close()
''')

if __name__ == '__main__':
    cluster = dispy.JobCluster('touch.py')
    for i in range(50):
        cluster.submit(i, os.getcwd())
