# What its runs leave is there when it has ended.
import os, subprocess, sys

subprocess.run([sys.executable, 'script.py'], check=True)
missing = [i for i in range(50) if not os.path.exists('ran.%d' % i)]
assert not missing, missing
print('50 runs')
