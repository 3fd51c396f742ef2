"""Two users of one scheduler who have only its secret: neither knows that of the nodes, and a third gets nowhere."""

import re
import subprocess
import sys
import tempfile

import dispy
from dispy.errors import NoSchedulerError


def start(module, *options):
    """Start a daemon of dispy; returns the process, and the port that it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--daemon", "--listen_port", "0", *options], stdout=-1
    )
    port = int(re.search(rb":(\d+) ", process.stdout.readline())[1])
    return process, port


def secret(directory, name):
    """Make a secret with ``dispy secret new``; returns the path of its file."""
    path = f"{directory}/{name}"
    subprocess.run([sys.executable, "-m", "dispy", "secret", "new", path], check=True, stdout=-1)
    return path


def word(text):
    return text.upper()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        nodes, people = secret(directory, "nodes.secret"), secret(directory, "people.secret")
        node, node_port = start("dispy.dispynode", "--secret_file", nodes)
        scheduler, port = start(
            "dispy.dispyscheduler", "--node", f"127.0.0.1:{node_port}",
            "--node_secret_file", nodes, "--cluster_secret_file", people,
        )  # fmt: skip
        try:
            where = {"scheduler_host": "127.0.0.1", "scheduler_port": port}
            for user in ("alice", "bob"):
                with dispy.SharedJobCluster(word, secret_file=people, **where) as cluster:
                    assert cluster.submit(user)() == user.upper()
                    print(f"{user} is served")
            try:
                dispy.SharedJobCluster(word, secret_file=nodes, **where)
            except NoSchedulerError as error:
                print(f"who has another secret is not: {error}")
            else:
                raise AssertionError("a stranger was let in")
        finally:
            for process in (scheduler, node):
                process.terminate()
                process.wait()
                process.stdout.close()
