"""What people are shown of clusters, jobs and nodes: in one line, as HTML, on a terminal, as frames."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import dispy
from dispy.client.job import ABANDONED, CANCELLED, FINISHED, RUNNING, TERMINATED, DispyJob
from dispy.client.map.map_results import MapResults
from dispy.client.nodes import DispyNode, NodeAllocate, NodeList
from dispy.client.shown.cluster_status import ClusterStatus
from dispy.client.shown.overview import (
    RATE_S,
    WHY_MAX,
    Meter,
    Overview,
    cluster_line,
    node_line,
    progress_line,
    rate,
    size,
    span,
)  # fmt: skip
from dispy.client.shown.survey import JobSurvey
from dispy.client.shown.tables import ROWS_MAX, cluster_html, nodes_html, table
from dispy.client.shown.terminal import drawn
from dispy.errors import UsageError
from dispy.system import process_identity
from dispy.system.escaping import line

HOSTILE = {
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "C1": "\x9b31m\x85",
    "markup": "[red]x[/red][link=http://bad]y[/link]",
    "script": "<script>alert(1)</script>",
    "attribute": '"\' onload=alert(1) x="',
    "entity": "&lt;b&gt;&#x3c;b>",
    "lines": "a\nb\r\x0bc\u2028d",
    "direction": "\u202eabc\u2066",
    "surrogate": "\udcff",
    "long": "x" * 100_000,
    "long escapes": "\x1b" * 100_000,
    "emoji": ":skull: :boom:",
}
"""Texts that users and peers may have for names, reasons and failures."""


def a_node(**others: Any) -> DispyNode:
    node = DispyNode("10.0.0.3", "big", 4)
    node.busy, node.jobs_done, node.jobs_failed, node.cpu_time = 3, 120, 2, 60.0
    for name, value in others.items():
        setattr(node, name, value)
    return node


def an_overview(**others: Any) -> Overview:
    shown = Overview("compute", 12, 1, 2, 3, 4, False, [a_node()], "", "")
    return shown._replace(**others)


def hostile_overview(text: str) -> Overview:
    node = a_node(name=text, ip_addr=text, reason=text, cpus=0)
    return an_overview(name=text, nodes=[node, a_node(name=text)], why=text, failure=text)


class Texts(HTMLParser):
    """Elements, attributes and texts of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


TAGS = {"div", "b", "progress", "table", "thead", "tbody", "tr", "th", "td"}


def as_drawn(shown: Overview, width: int = 100, nodes_max: int = 8) -> str:
    """What rich writes to a terminal for an overview."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=30, markup=False, emoji=False)
    console.print(drawn(shown, nodes_max))
    return out.getvalue()


def without_styles(text: str) -> str:
    """A text without the escapes by which colours are set."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# One line.


def test_the_line_of_a_cluster_says_what_one_asks_next() -> None:
    assert cluster_line("JobCluster", an_overview()) == (
        "<JobCluster compute: 3 running, 4 waiting, 12 done, 1 failed, 2 cancelled; 1 node, 4 CPUs>"
    )
    idle = an_overview(
        running=0, nodes=[], why="4 jobs of cluster compute wait: no node of nodes=* can be used."
    )
    assert cluster_line("JobCluster", idle).endswith(f"; no node; {idle.why}>")
    assert cluster_line("JobCluster", an_overview(failure="ValueError: bad")).endswith(
        "first failure: ValueError: bad>"
    )
    closed = an_overview(running=0, waiting=0, failed=0, cancelled=0, state="closed")
    assert cluster_line("SharedJobCluster", closed) == "<SharedJobCluster compute: closed; 12 done>"
    assert " 4+ waiting" in cluster_line("JobCluster", an_overview(is_endless=True))


def test_progress_in_a_line() -> None:
    shown = an_overview(rate=2.0, age_s=5.0)
    assert progress_line(shown) == (
        "compute: 12 of 22 done, 3 running, 4 waiting, 1 failed, 2 cancelled; 1 node, 4 CPUs; 2/s; 3.5 s left"
    )
    assert "left" not in progress_line(shown._replace(is_endless=True))
    assert " of " not in progress_line(shown._replace(is_endless=True))
    assert "left" not in progress_line(shown._replace(rate=0.0)), "at no rate nothing ends"


def test_the_line_of_a_node() -> None:
    assert repr(a_node()) == "<DispyNode big 10.0.0.3: 3 of 4 CPUs busy, 120 done, 2 failed>"
    gone = a_node(cpus=0, jobs_failed=0, name="10.0.0.3", reason="it is lost")
    assert repr(gone) == "<DispyNode 10.0.0.3: no CPU in use, 120 done, it is lost>"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_lines_stay_lines(text: str) -> None:
    shown = hostile_overview(text)
    allocate = NodeAllocate("*")
    allocate.host = text
    job = DispyJob(text, _status=TERMINATED, _is_final=True, ip_addr=text, _exception=text)
    running = DispyJob(text, _status=RUNNING, ip_addr=text, start_time=1.0)
    said = [
        cluster_line("JobCluster", shown), progress_line(shown), node_line(shown.nodes[0]), repr(allocate), repr(job),
        repr(running), repr(ClusterStatus([a_node(name=text)], 1)),
        repr(MapResults((_ for _ in ()), text, lambda: (1, 2, True))),
    ]  # fmt: skip
    for one in said:
        assert one.isprintable()
        assert one == line(one)
        assert len(one) < 5 * WHY_MAX


def test_times_rates_and_sizes() -> None:
    assert [span(s) for s in (-1, 0.04, 9.94, 59.4, 59.6, 185, 7385, 1e300)] == [
        "0.0 s", "0.0 s", "9.9 s", "59 s", "1:00", "3:05", "2:03:05", "277777:46:40",
    ]  # fmt: skip
    assert [rate(r) for r in (0.25, 12.54, 999, 12345.6)] == ["0.25", "12.5", "999", "12346"]
    assert [size(b) for b in (0, 1023, 1536, 5 << 40)] == ["0 B", "1023 B", "1.5 K", "5.0 T"]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter(0, 0.0)
    assert meter.rate(0, 0.0) is None
    assert meter.rate(10, 1.0) == 10
    for second in range(2, 200):
        assert meter.rate(10 * second, float(second)) == pytest.approx(10)
    for second in range(200, 200 + int(RATE_S) + 1):
        slow = meter.rate(1990, float(second))
    assert slow == 0, "nothing has ended for so long"
    assert meter.mean(1000, 100.0) == 10


# Jobs.


def test_a_job_says_how_it_is() -> None:
    session = SimpleNamespace(name="f", is_closed=False, dispy_nodes={1: 1})
    now = time.time()
    job = DispyJob(7, submit_time=now - 3, _session=session)
    assert repr(job) == "<DispyJob id=7 status=Created, waits for 3.0 s>"
    session.dispy_nodes.clear()
    assert (
        repr(job)
        == "<DispyJob id=7 status=Created, waits for 3.0 s: no node is in use, and cluster.why(job) says why>"
    )
    session.is_closed = True
    assert repr(job) == "<DispyJob id=7 status=Created, and its cluster is closed>"
    job._begin(now - 2, "10.0.0.3")
    assert repr(job) == "<DispyJob id=7 status=Running on 10.0.0.3 for 2.0 s>"
    job._cancel()
    assert repr(job) == "<DispyJob id=7 status=Cancelled, and has not ended yet>"
    job._end_here(CANCELLED, "cancelled")
    job._finish()
    assert repr(job) == "<DispyJob id=7 status=Cancelled: cancelled>"
    done = DispyJob("a", _status=FINISHED, _is_final=True, start_time=1.0, end_time=1.5, ip_addr="::1")
    assert repr(done) == "<DispyJob id='a' status=Finished on ::1 for 0.5 s>"
    job.status = 99
    assert repr(job) == "<DispyJob id=7 status=99: cancelled>"


class BadId:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_ids_that_cannot_be_shown() -> None:
    assert "BadId" in repr(DispyJob(BadId()))
    job = DispyJob(None)
    job.id = [job]
    assert len(repr(job)) < 200, "a job that is in its own id"
    assert len(repr(DispyJob(list(range(100_000))))) < 200


def test_elements_of_nodes() -> None:
    assert repr(NodeAllocate("*")) == "<NodeAllocate *, all CPUs>"
    assert repr(NodeAllocate("127.0.0.1", 9701, -1)) == "<NodeAllocate 127.0.0.1 port 9701, all but 1 CPUs>"
    assert repr(NodeAllocate("127.0.0.*", cpus=2)) == "<NodeAllocate 127.0.0.*, at most 2 CPUs>"
    with pytest.warns(UserWarning, match="is not used"):
        assert "not used" in repr(NodeAllocate("no-such-host.invalid"))

    class Mine(NodeAllocate):
        def __init__(self) -> None:
            pass

    assert repr(Mine()) == "<Mine without a host: its __init__ has to call super().__init__(host)>"


# HTML.


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_of_others_is_markup(text: str) -> None:
    shown = hostile_overview(text)
    job = DispyJob(
        text, _status=TERMINATED, _is_final=True, _exception=text, _session=SimpleNamespace(name=text)
    )
    pages = [
        cluster_html(shown), nodes_html(list(shown.nodes), text), table([text], [[text]]),
        NodeList(shown.nodes)._repr_html_(), shown.nodes[0]._repr_html_(),
        ClusterStatus(list(shown.nodes), 3)._repr_html_(),
        job._repr_html_() if text not in ("",) else "",
    ]  # fmt: skip
    for page in pages:
        found = Texts(page)
        assert found.tags <= TAGS
        assert found.attributes <= {"max", "value"}
        assert found.open == []
        assert page.isprintable()
        assert len(page) < 60 * WHY_MAX
        assert line(text)[:5] in "".join(found.texts), "it is shown as it is"


def test_the_table_of_a_cluster() -> None:
    found = "|".join(
        Texts(cluster_html(an_overview(why="because", failure="ValueError: bad", rate=2.0))).texts
    )
    for said in (
        "compute",
        "3 running",
        "12 done",
        "big|10.0.0.3|4|3|120|2|0.5",
        "because",
        "bad",
        "2/s",
        "3.5 s left",
    ):
        assert said in found
    assert '<progress max="22" value="15">' in cluster_html(an_overview())
    assert "<progress" not in cluster_html(an_overview(is_endless=True))


def test_many_nodes_are_counted() -> None:
    nodes = [a_node(name=f"n{number}") for number in range(ROWS_MAX + 30)]
    page = nodes_html(nodes)
    assert page.count("<tr>") == ROWS_MAX + 1
    assert "and 30 more nodes" in page
    assert ">n79<" in page, "those in use come last"
    assert "no nodes" in NodeList()._repr_html_()


# Terminals.


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("width", [100, 20])
def test_terminals_obey_nobody_else(text: str, width: int) -> None:
    said = without_styles(as_drawn(hostile_overview(text), width))
    assert not re.search(r"[^\n -~\u2500-\u259f\u2026\u2014]", said), (
        "escapes, or letters that rich has made of a name"
    )
    assert all(len(one) <= width for one in said.splitlines())
    if width == 100 and text.isprintable():
        assert text[:12] in said, "markup is shown as it is written"


def test_what_is_drawn() -> None:
    said = without_styles(
        as_drawn(an_overview(why="no node", failure="ValueError: bad", rate=2.0, age_s=3.0))
    )
    for one in (
        "compute", "68 %", "2/s, 3.5 s left, after 3.0 s", "3 running, 4 waiting, 12 done",
        "node big 10.0.0.3: 3 of 4", "no node", "first failure: ValueError: bad",
    ):  # fmt: skip
        assert one in said
    many = an_overview(nodes=[a_node(name=f"n{number}") for number in range(12)])
    assert "and 9 more nodes" in as_drawn(many, nodes_max=3)
    assert "node n11" in as_drawn(many, nodes_max=3)
    assert " -  " in as_drawn(an_overview(is_endless=True))


# Frames.


def test_a_frame_of_jobs() -> None:
    begun = 1_700_000_000.0
    jobs = [
        DispyJob("a", submit_time=begun, start_time=begun + 1, end_time=begun + 3, ip_addr="::1", _status=FINISHED,
                 _is_final=True),
        DispyJob(2, submit_time=begun, _status=ABANDONED, _is_final=True, _exception="node x is lost\nmore"),
        DispyJob(3, submit_time=begun, start_time=begun - 1, _status=RUNNING,
                 _session=SimpleNamespace(pid=process_identity.pid)),
    ]  # fmt: skip
    made = dispy.frame([*jobs, jobs[0]])
    assert list(made.columns) == [
        "id", "status", "node", "submitted", "started", "ended", "waited", "ran", "error",
    ]  # fmt: skip
    assert made.id.to_list() == ["a", 2, 3]
    assert made.status.to_list() == ["Finished", "Abandoned", "Running"]
    assert made.waited.to_list()[::2] == [1, 0], "a clock that is behind gives no negative time"
    assert made.ran.isna().to_list() == [False, True, True]
    assert made.ran[0] == 2
    assert made.ended[0].timestamp() == begun + 3
    assert str(made.submitted.dt.tz) == "UTC"
    assert made.error.isna().to_list() == [True, False, True]
    assert made.error[1] == "node x is lost"


def test_frames_of_nothing() -> None:
    made = dispy.frame([])
    assert len(made) == 0
    assert made.ran.dtype == "float64"
    assert len(ClusterStatus([], 0).frame()) == 0


def test_a_frame_of_nodes() -> None:
    made = ClusterStatus([a_node(tx=5, update_time=1_700_000_000.0), a_node(reason="lost")], 0).frame()
    assert made.node.to_list() == ["big", "big"]
    assert made.sent.to_list() == [5, 0]
    assert made.jobs_done.sum() == 240
    assert made.update_time.isna().to_list() == [False, True]
    assert made.reason.to_list() == ["", "lost"]


def test_frames_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for make in (lambda: dispy.frame([]), ClusterStatus([], 0).frame):
        with pytest.raises(UsageError, match=r"pandas cannot be imported.*python -m pip install pandas"):
            make()


@pytest.mark.parametrize("what", [5, "jobs", [5], None, DispyJob(1)])
def test_frames_of_what_are_no_jobs(what: Any) -> None:
    with pytest.raises(UsageError, match="frame takes"):
        dispy.frame(what)


# Surveys.


def test_jobs_are_counted_once() -> None:
    jobs = [DispyJob(number) for number in range(6)]
    survey = JobSurvey(jobs)
    assert survey.take()[1:6] == (0, 0, 0, 0, 6)
    jobs[0]._begin(1.0, "::1")
    for job, status in zip(jobs[1:], (FINISHED, TERMINATED, CANCELLED, ABANDONED), strict=False):
        job._status = status
        job._finish()
    for _ in range(2):
        shown = survey.take()
        assert shown[1:6] == (1, 2, 1, 1, 1)
    assert (shown.name, shown.total, shown.ended) == ("jobs", 6, 4)


def test_threads_that_look_at_once_count_once() -> None:
    jobs = [DispyJob(number, _status=TERMINATED, _exception="ValueError: 1") for number in range(20_000)]
    survey = JobSurvey(jobs)
    for job in jobs[::2]:
        job._finish()
    together = threading.Barrier(4)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: (together.wait(5), survey.take())[1], range(16)))
    finally:
        sys.setswitchinterval(before)
    assert {shown.failed for shown in seen} == {10_000}
    assert {shown.waiting for shown in seen} == {10_000}
    assert seen[0].failure == "ValueError: 1"
