"""A stranger's datagrams, as many as fit into a second; longer runs: ``python -m tests.fuzz.beacons``."""

from . import beacons


def test_nothing_that_a_stranger_says_is_believed() -> None:
    stranger = beacons.run(1, 60_000, 60)
    assert stranger.faults == []
    assert stranger.believed > 200


def test_known_faults_are_found() -> None:
    assert beacons.find_all(1, 60_000) == []
