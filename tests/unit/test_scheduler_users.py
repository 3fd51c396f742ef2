"""Users of a shared scheduler by their keys: a name that is proved counts more than one that is claimed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dispy.protocol import shared
from dispy.scheduler.daemon.hub import Hub
from dispy.scheduler.daemon.node_search import NodeAccess
from dispy.security.identities import Identity, Revoked
from dispy.security.keys import Keys
from dispy.security.tls import Tls
from dispy.settings import UserSettings
from tests.models.hub import SECRET, FakeConnection, add_node, open_cluster

P, Q = b"p" * 16, b"q" * 16


def user(name: str, serial: int = 0) -> Identity:
    return Identity("user", name, "0" * 16, serial=serial)


class Stage:
    """A hub, and what programs say to it."""

    def __init__(self, *users: str) -> None:
        parts = {name: UserSettings() for name in users}
        access = NodeAccess(SECRET, Tls(), [], 9701, False)
        self.hub = Hub(b"s" * 16, "s", access, users=parts, is_closed_to_others=bool(users))
        add_node(self.hub)

    def attach(
        self, program: bytes, claim: str, key: Identity | None, *, is_recovery: bool = False
    ) -> FakeConnection:
        connection = FakeConnection()
        connection.peer = key
        message = shared.Attach(program, "p", claim, "", is_recovery=is_recovery)
        self.hub.on_message(connection, message)  # type: ignore[arg-type]
        return connection

    def users(self) -> list[str]:
        return [program.user for program in self.hub.programs.values()]


def play(story: Callable[[], None]) -> None:
    async def run() -> None:
        story()

    asyncio.run(run())


def refusal_of(connection: FakeConnection) -> str:
    (leaving,) = connection.said
    assert type(leaving) is shared.Leaving
    assert not connection.is_ready
    return leaving.reason


def test_the_name_is_that_of_the_key_and_else_the_claimed_one() -> None:
    def story() -> None:
        stage = Stage()
        stage.attach(P, "root", user("alice"))
        stage.attach(Q, "bob", None)
        assert stage.users() == ["alice", "bob"]
        assert set(stage.hub.service.state.lines.tenants) == {"alice", "bob"}

    play(story)


@pytest.mark.parametrize(
    ("claim", "key", "is_in"),
    [
        ("alice", None, True),
        ("bob", None, False),
        ("bob", user("alice"), True),
        ("alice", user("bob"), False),
    ],
)
def test_known_users_are_those_of_the_file_by_key_or_claim(
    claim: str, key: Identity | None, is_in: bool
) -> None:
    def story() -> None:
        stage = Stage("alice")
        connection = stage.attach(P, claim, key)
        assert bool(stage.users()) is is_in
        if not is_in:
            assert "user 'bob' is not known here" in refusal_of(connection)

    play(story)


@pytest.mark.parametrize("is_recovery", [False, True])
def test_a_user_does_not_take_another_users_program_over(is_recovery: bool) -> None:
    """Neither as the program itself, nor as its recovery: the program's identity is no proof."""

    def story() -> None:
        stage = Stage()
        first = stage.attach(P, "alice", user("alice"))
        thief = stage.attach(P, "alice", user("mallory"), is_recovery=is_recovery)
        assert "another user's" in refusal_of(thief)
        assert first.is_ready
        assert first.aborted is None
        again = stage.attach(P, "mallory", user("alice", 1), is_recovery=is_recovery)
        assert type(again.said[0]) is shared.Welcome
        assert again.said[0].is_known

    play(story)


def test_programs_of_revoked_keys_are_thrown_out_and_no_others() -> None:
    def story() -> None:
        stage = Stage()
        keys = Keys(SECRET.keys.lines, (Revoked("user", "alice", 0),))
        there = stage.attach(P, "", user("alice"))
        away = stage.attach(b"a" * 16, "", user("alice"))
        others = [
            stage.attach(Q, "", user("alice", 1)),
            stage.attach(b"b" * 16, "", user("bob")),
            stage.attach(b"c" * 16, "alice", None),
        ]
        for program in list(stage.hub.programs.values()):
            open_cluster(stage.hub, program)
        stage.hub.on_closed(away, None)  # type: ignore[arg-type]
        assert len(stage.hub.programs) == 5
        stage.hub.revoke(keys.is_revoked)
        assert sorted(stage.users()) == ["alice", "alice", "bob"]
        assert "revoked" in there.said[-1].reason
        assert not there.is_ready
        assert all(connection.is_ready for connection in others)
        assert {client for client, _ in stage.hub.service.state.computations} == set(stage.hub.programs)

    play(story)
