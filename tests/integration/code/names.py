"""The names that jobs find are there in every function and method of the user's, whichever module it is of."""

import os
import sys

import kept.naming
from kept.naming import Thing, nested

import dispy
from harness import expect

SETUP = []


class Here:
    def method(self):
        return dispy_node_name, dispy_job_id

    def send(self, path):
        return dispy_send_file(path)


def helper():
    return dispy_node_name


def prepare():
    SETUP.append((dispy_node_name, kept.naming.dispy_node_name))
    return 0


def work(name, job_id):
    module = kept.naming
    assert helper() == name, helper()
    assert Here().method() == (name, job_id), Here().method()
    assert module.function() == (name, job_id, dispy_job_path), module.function()
    assert Thing().method() == (name, job_id)
    assert Thing().prop == "dispynode"
    assert Thing.static()
    assert nested() == dispy_node_ip_addr
    assert module.provisional("news") == 0
    assert globals()["dispy_node_name"] == name
    assert eval("dispy_node_name") == name
    assert [(name, name)] == SETUP, SETUP
    with open("sent.txt", "w") as file:
        file.write("x")
    assert Here().send("sent.txt") == 0
    return "all"


def apply(function):
    return function()


if __name__ == "__main__":
    news = []

    def note(job):
        if job.status == dispy.DispyJob.ProvisionalResult:
            news.append(job.result)

    for options in ({}, {"isolate": True}, {"setup_per": "worker"}):
        with dispy.JobCluster(work, setup=prepare, job_status=note, depends=[], **options) as cluster:
            node = None
            first = cluster.submit("?", 0)
            first()
            name = cluster.status().nodes[0].name
            for job_id in (7, "text"):
                job = cluster.submit_job_id(job_id, name, job_id)
                expect(f"{options} {job_id}", job() or job.exception, "all")
    expect("provisional results", news, ["news"] * 6)
    with dispy.JobCluster(apply) as cluster:
        expect("method as argument", cluster.submit_job_id(3, Here().method)(), (name, 3))
        expect("function as argument", cluster.submit(helper)(), name)
        expect("of a module", cluster.submit_job_id(5, kept.naming.function)()[:2], (name, 5))
        expect("lambda", cluster.submit(lambda: (dispy_node_name, Here().method()[0]))(), (name, name))
    expect(
        "nothing of them here",
        [hasattr(__builtins__, "dispy_node_name"), "dispy_job_id" in globals()],
        [False, False],
    )
    assert os
    assert sys
    print("done")
