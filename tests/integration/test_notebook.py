"""A notebook, run as a person runs it: what its cells show, what is updated, and what a saved one has in the end."""

from __future__ import annotations

import json
import re

from .conftest import RunProgram
from .helpers import Place

CELLS = {
    "cluster": """
import os, time, dispy
def compute(path, number):
    while not os.path.exists(path):
        time.sleep(0.01)
    if number == 2:
        raise ValueError("<img src=x onerror=alert(1)>")
    return number
compute.__name__ = "<script>alert(1)</script>"
cluster = dispy.JobCluster(compute)
cluster""",
    "jobs": """
gates = [os.path.abspath(f"gate{number}") for number in range(4)]
jobs = [cluster.submit(gates[number], number) for number in range(4)]
for number, shown in enumerate(["1 done", "2 done", "1 failed", "3 done"]):
    open(gates[number], "w").close()
    while shown not in open("displayed").read():
        time.sleep(0.01)
""",
    "status": "cluster.status()",
    "nodes": "cluster.status().nodes",
    "node": "cluster.status().nodes[0]",
    "job": "jobs[2]",
    "argument": "cluster.submit_job_id('<script>alert(2)</script>', gates[0], 0)",
    "frame": "dispy.frame(jobs)",
    "again": "cluster",
    "progress": """
for job in dispy.progress([cluster.submit(gates[0], number) for number in range(5)]):
    pass
with dispy.progress(cluster):
    print(sum(1 for _ in cluster.starmap([(gates[0], 0)] * 10)))
""",
    "close": "import threading; cluster.close(); [t.name for t in threading.enumerate() if 'display' in t.name]",
    "closed": "cluster",
}


RUN = """
import json, sys
from pathlib import Path

import nbclient
import nbformat


class Client(nbclient.NotebookClient):
    shown = []

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("display_data", "update_display_data"):
            content = msg["content"]
            self.shown.append((msg["msg_type"], content["transient"]["display_id"], content["data"]["text/html"]))
            Path("displayed").write_text(self.shown[-1][2])
        return super().process_message(msg, cell, cell_index)


cells = [nbformat.v4.new_code_cell(source) for source in json.loads(Path("cells").read_text())]
notebook = nbformat.v4.new_notebook(cells=cells)
Path("displayed").touch()
client = Client(notebook, timeout=25, kernel_name="python3", resources={"metadata": {"path": "."}})
client.execute()
Path("ran").write_text(json.dumps({"shown": client.shown, "outputs": [cell.outputs for cell in notebook.cells]}))
"""
"""Program that runs a notebook, as ``jupyter execute`` does, and keeps all that was displayed; a file has the last of
it. In a process of its own, as the client of kernels leaves threads and descriptors behind."""


def test_a_notebook(place: Place, run_program: RunProgram) -> None:
    here = place.root / "notebook"
    here.mkdir()
    (here / "cells").write_text(json.dumps(list(CELLS.values())))
    own = {"IPYTHONDIR": str(here), "JUPYTER_RUNTIME_DIR": str(here)}
    program = run_program(RUN, warnings=(), cwd=here, env={**place.environment, **own})
    assert program.wait(28) == 0, program.stderr
    ran = json.loads((here / "ran").read_text())
    shown, outputs = ran["shown"], dict(zip(CELLS, ran["outputs"], strict=True))

    def html(name: str, number: int = 0) -> str:
        text = str(outputs[name][number]["data"]["text/html"])
        assert "<script" not in text
        assert "<img" not in text
        return text

    # One display, which has followed the cluster.
    first = shown[0]
    assert first[0] == "display_data"
    of_cluster = [(kind, page) for kind, name, page in shown if name == first[1]]
    kinds = [kind for kind, _ in of_cluster]
    assert kinds.count("update_display_data") >= 4
    assert kinds.count("display_data") == 2, "the cell 'again' shows the same display"
    done = [int(found[1]) for _, page in of_cluster if (found := re.search(r"(\d+) done", page))]
    assert done == sorted(done)
    assert {0, 1, 2, 3} <= set(done), "in steps"
    # A saved notebook has the last state, wherever it was shown.
    assert "closed; 18 done, 2 failed" in html("cluster")
    assert html("cluster") == html("again") == html("closed")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html("cluster")
    assert "the first failure: ValueError: &lt;img src=x onerror=alert(1)&gt;" in html("cluster")
    assert outputs["close"][-1]["data"]["text/plain"] == "[]", "the thread has ended with the cluster"
    # The others.
    for name in ("status", "nodes", "node"):
        assert html(name).count("<tr>") == 2
        assert "127.0.0.1" in html(name)
    assert "0 jobs pending; 1 node" in html("status")
    assert "Terminated: ValueError: &lt;img" in html("job")
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in html("argument")
    assert "ValueError: &lt;img" in html("frame")
    assert [output["output_type"] for output in outputs["progress"]] == [
        "display_data",
        "display_data",
        "stream",
    ]
    assert '<progress max="5" value="5">' in html("progress")
    assert "10 done" in html("progress", 1)
