"""Derived keys in the handshake: who may do what, and what a stolen key opens.

Each cell of the table is played in both directions, by holders that do not check themselves: what keeps them out is
the other side.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec
import pytest

from dispy.errors import AuthenticationError, DispyError
from dispy.protocol import frames, limits
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.handshake import MAGIC, REFUSAL, Challenge, Handshake, Hello, Proof
from dispy.protocol.node import from_node_decoder, to_node_decoder
from dispy.security import identities
from dispy.security.identities import ROLES, Identity, Revoked
from dispy.security.keys import Key, Keys, alone, derive, derived, master

MASTER = master(bytes(range(32)))
OTHER = master(bytes(range(1, 33)))
MASTERS = Keys((MASTER,))
NOW = 1_800_000_000
encode = msgspec.msgpack.Encoder().encode


def key_of(
    role: str,
    name: str = "x",
    origin: Key = MASTER,
    until: int | None = None,
    serial: int = 0,
    direct: bool = False,
) -> Key:
    """A key derived from a master."""
    return derived(origin, Identity(role, name, origin.fingerprint, until, serial, direct))  # type: ignore[arg-type]


HOLDERS: dict[str, Key] = {
    **{role: key_of(role) for role in ROLES},
    "user;direct": key_of("user", direct=True),
    "master": MASTER,
    "another master": OTHER,
    "derived from another master": key_of("user", origin=OTHER),
}

PLACES = [
    ("client", "node"),
    ("client", "scheduler"),
    ("node", "client"),
    ("scheduler", "client"),
    ("node", "scheduler"),
    ("scheduler", "node"),
    ("relay", "client"),
    ("relay", "node"),
    ("client", "relay"),
    ("admin", "scheduler"),
    ("client", "client"),
    ("node", "node"),
]
"""Role of the holder of a key on a connection, role of its peer, who has the master."""

MAY = {
    ("user", "client", "scheduler"),
    ("user;direct", "client", "scheduler"),
    ("user;direct", "client", "node"),
    ("scheduler", "client", "node"),
    ("scheduler", "scheduler", "client"),
    ("node", "node", "client"),
    *{("master", *place) for place in PLACES},
}
"""Everything that is allowed; all other cells are refused."""


class Trusting(Handshake):
    """An end that takes every key that it has in common with its peer, whatever its role and time."""

    def _fault_of_peer(self, identity: Identity) -> str:
        return ""


class Careless(Handshake):
    """An attacker: an end that checks nothing, and proves the key that it has, whatever the other side says."""

    def _fault_of_ours(self, identity: Identity) -> str:
        return ""

    def _choose(self, said: list[str]) -> tuple[Identity, bytes]:
        identity = identities.parse(said[0])
        assert identity is not None
        return identity, self._key

    def _on_dialers_proof(self, proof: Proof) -> bytes:
        self.done = True
        return encode(Proof(self._mac(b"listener", self._key)))

    def _on_listeners_proof(self, proof: Proof) -> None:
        self.done = True


def end(
    held: Key | Keys,
    role: str,
    peer_role: str,
    *,
    dials: bool,
    kind: type[Handshake] = Handshake,
    now: float = NOW,
) -> Handshake:
    """One end of a handshake."""
    ours = held if isinstance(held, Keys) else Keys((held,))
    return kind(ours, role, peer_role, bytes([dials]) * 32, is_dialer=dials, now=now)


def talk(dialer: Handshake, listener: Handshake) -> list[bytes]:
    """Let both talk to the end; returns what was said."""
    said = []
    message = dialer.start()
    sides = [listener, dialer]
    while message is not None:
        said.append(message)
        message = sides[0].receive(message)
        sides.reverse()
    assert dialer.done
    assert listener.done
    return said


def meet(one: Handshake, other: Handshake, *, one_dials: bool) -> None:
    talk(one, other) if one_dials else talk(other, one)


def is_refused(play: Callable[[], object]) -> bool:
    """True if a talk ends with an error of authentication; any other error is one of the test."""
    try:
        play()
    except AuthenticationError:
        return True
    return False


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "listens"])
@pytest.mark.parametrize("place", PLACES, ids=" to ".join)
@pytest.mark.parametrize("holder", HOLDERS)
def test_the_table_of_who_may_do_what(holder: str, place: tuple[str, str], dials: bool) -> None:
    role, peer_role = place
    attacker = end(HOLDERS[holder], role, peer_role, dials=dials, kind=Careless)
    honest = end(MASTERS, peer_role, role, dials=not dials)
    refused = is_refused(lambda: meet(attacker, honest, one_dials=dials))
    assert refused == ((holder, role, peer_role) not in MAY)
    assert honest.done != refused


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "listens"])
@pytest.mark.parametrize("place", PLACES, ids=" to ".join)
@pytest.mark.parametrize("holder", HOLDERS)
def test_an_honest_holder_says_no_word_where_its_key_opens_nothing(
    holder: str, place: tuple[str, str], dials: bool
) -> None:
    if holder in ("another master", "derived from another master"):
        return
    role, peer_role = place
    ours = end(HOLDERS[holder], role, peer_role, dials=dials)
    theirs = end(MASTERS, peer_role, role, dials=not dials, kind=Trusting)
    refused = is_refused(lambda: meet(ours, theirs, one_dials=dials))
    assert refused == ((holder, role, peer_role) not in MAY)
    assert ours.done != refused


@pytest.mark.parametrize("place", PLACES, ids=" to ".join)
@pytest.mark.parametrize("listens", HOLDERS)
@pytest.mark.parametrize("dials", HOLDERS)
def test_two_derived_keys_have_nothing_in_common_but_themselves(
    dials: str, listens: str, place: tuple[str, str]
) -> None:
    role, peer_role = place
    one, other = HOLDERS[dials], HOLDERS[listens]
    if one.identity is None or other.identity is None:
        return
    dialer = end(one, role, peer_role, dials=True, kind=Careless)
    listener = end(other, peer_role, role, dials=False)
    refused = is_refused(lambda: talk(dialer, listener))
    kind = "user" if dials == "derived from another master" else dials
    assert refused == (one != other or (kind, role, peer_role) not in MAY)


def test_the_peer_is_known_by_its_key_and_not_by_what_it_claims() -> None:
    for held, role, peer_role in (
        (key_of("user", "alice"), "client", "scheduler"),
        (key_of("node", "n7"), "node", "client"),
        (key_of("scheduler", "main"), "client", "node"),
    ):
        for dials in (True, False):
            ours = end(held, role, peer_role, dials=dials)
            theirs = end(MASTERS, peer_role, role, dials=not dials)
            meet(ours, theirs, one_dials=dials)
            assert theirs.peer == held.identity
            assert ours.used == held.identity
            assert ours.peer is None


def test_masters_prove_no_identity() -> None:
    dialer, listener = end(MASTER, "client", "node", dials=True), end(MASTER, "node", "client", dials=False)
    said = talk(dialer, listener)
    assert (dialer.peer, listener.peer, dialer.first_to_expire, listener.first_to_expire) == (
        None,
        None,
        None,
        None,
    )
    assert msgspec.msgpack.decode(said[0], type=Hello).identity == ""
    assert msgspec.msgpack.decode(said[1], type=Challenge).identities == []


# What a stolen key opens: everything else is refused.

STOLEN = key_of("node", "n7")


@pytest.mark.parametrize(
    ("role", "peer_role"),
    [("client", "node"), ("client", "scheduler"), ("node", "scheduler"), ("scheduler", "node")],
)
def test_a_stolen_node_key_gets_nowhere_as_a_dialer(role: str, peer_role: str) -> None:
    listener = end(MASTERS, peer_role, role, dials=False)
    with pytest.raises(AuthenticationError):
        talk(end(STOLEN, role, peer_role, dials=True, kind=Careless), listener)


@pytest.mark.parametrize("claim", ["", "node:n8", "scheduler:main", "user:alice", "admin:root"])
@pytest.mark.parametrize("peer_role", ["node", "scheduler"])
def test_a_stolen_node_key_proves_no_other_identity(claim: str, peer_role: str) -> None:
    """It claims another role or name, or to have the master, and proves what it has."""
    said = f"{claim}:key={MASTER.fingerprint}" if claim else ""
    identity = identities.parse(said)
    assert (identity is None) == (claim == "")
    liar = Key(STOLEN.key, MASTER.fingerprint, identity)
    listener = end(MASTERS, peer_role, "client", dials=False)
    with pytest.raises(AuthenticationError, match="does not know our secret"):
        talk(end(liar, "client", peer_role, dials=True, kind=Careless), listener)


def test_a_stolen_node_key_is_no_node_of_another_name() -> None:
    liar = Key(STOLEN.key, MASTER.fingerprint, key_of("node", "n8").identity)
    with pytest.raises(AuthenticationError, match="the peer does not know our secret"):
        talk(
            end(MASTERS, "client", "node", dials=True),
            end(liar, "node", "client", dials=False, kind=Careless),
        )


def test_a_stolen_node_key_is_no_scheduler_to_programs() -> None:
    for claim in (
        STOLEN,
        Key(STOLEN.key, MASTER.fingerprint),
        Key(STOLEN.key, MASTER.fingerprint, key_of("scheduler").identity),
    ):
        for program in (MASTER, key_of("user", "alice")):
            with pytest.raises(AuthenticationError):
                talk(
                    end(program, "client", "scheduler", dials=True),
                    end(claim, "scheduler", "client", dials=False, kind=Careless),
                )


def test_a_stolen_node_key_opens_that_node_only() -> None:
    """Its holder passes for somebody with the master to the node that it was stolen from, and to no other one."""
    as_master = Key(STOLEN.key, MASTER.fingerprint)

    def attack(victim: Key) -> None:
        attacker = end(as_master, "client", "node", dials=True, kind=Careless)
        talk(attacker, end(victim, "node", "client", dials=False))

    attack(STOLEN)
    for victim in (
        MASTER,
        key_of("node", "n8"),
        key_of("node", "n7", serial=1),
        key_of("node", "n7", until=NOW + 9),
    ):
        with pytest.raises(AuthenticationError):
            attack(victim)


# Expiry, by either side's clock.


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "listens"])
@pytest.mark.parametrize(("late", "is_valid"), [(-1.0, True), (-0.001, True), (0.0, False), (1.0, False)])
@pytest.mark.parametrize(
    "place", [("user", "client", "scheduler"), ("node", "node", "client")], ids=lambda it: it[0]
)
def test_a_key_ends_at_its_moment_by_the_peers_clock(
    place: tuple[str, str, str], late: float, is_valid: bool, dials: bool
) -> None:
    kind, role, peer_role = place
    holder = end(key_of(kind, until=NOW), role, peer_role, dials=dials, kind=Careless, now=0)
    honest = end(MASTERS, peer_role, role, dials=not dials, now=NOW + late)
    assert is_refused(lambda: meet(holder, honest, one_dials=dials)) == (not is_valid)
    if is_valid:
        for side in (honest, holder):
            assert side.first_to_expire is not None
            assert side.first_to_expire.until == NOW


def test_a_key_ends_by_the_clock_of_its_holder_before_a_word_is_said() -> None:
    dialer = end(key_of("user", "alice", until=NOW), "client", "scheduler", dials=True, now=NOW)
    with pytest.raises(
        AuthenticationError, match=r"user alice has expired at 2027-01-15 08:00:00 UTC.*secret derive"
    ):
        dialer.start()
    listener = end(key_of("node", "n7", until=NOW), "node", "client", dials=False, now=NOW)
    with pytest.raises(
        AuthenticationError, match="our own key cannot be used: the key of node n7 has expired"
    ):
        talk(end(MASTERS, "client", "node", dials=True, kind=Trusting), listener)


def test_the_error_names_what_has_expired_and_when() -> None:
    listener = end(MASTERS, "scheduler", "client", dials=False)
    with pytest.raises(
        AuthenticationError, match="key of user alice has expired at 2027-01-15 07:59:59 UTC"
    ):
        talk(
            end(key_of("user", "alice", until=NOW - 1), "client", "scheduler", dials=True, kind=Careless),
            listener,
        )
    dialer = end(MASTERS, "client", "node", dials=True)
    with pytest.raises(AuthenticationError, match="key of node n7 has expired at"):
        talk(dialer, end(key_of("node", "n7", until=NOW - 1), "node", "client", dials=False, kind=Careless))


def test_of_two_keys_the_first_valid_one_is_used() -> None:
    ours = Keys((key_of("user", "alice", until=NOW - 5), key_of("user", "alice", until=NOW + 5)))
    dialer, listener = (
        end(ours, "client", "scheduler", dials=True),
        end(MASTERS, "scheduler", "client", dials=False),
    )
    talk(dialer, listener)
    assert listener.peer is not None
    assert listener.peer.until == NOW + 5


# Revocation.


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "listens"])
@pytest.mark.parametrize(
    ("revoked", "is_refused_"),
    [
        (Revoked("user", "alice"), True),
        (Revoked("user", "alice", 3), True),
        (Revoked("user", "alice", 4), True),
        (Revoked("user", "alice", 2), False),
        (Revoked("user", "bob"), False),
        (Revoked("node", "alice"), False),
    ],
)
def test_revoked_keys_are_refused_by_role_name_and_serial(
    revoked: Revoked, is_refused_: bool, dials: bool
) -> None:
    decides = Keys((MASTER,), (Revoked("admin", "nobody"), revoked))
    holder = end(key_of("user", "alice", serial=3, direct=True), "client", "scheduler", dials=dials)
    honest = end(decides, "scheduler", "client", dials=not dials)
    assert is_refused(lambda: meet(holder, honest, one_dials=dials)) == is_refused_


# Rotation.

RING = Keys((OTHER, MASTER))


@pytest.mark.parametrize("held", [MASTER, OTHER, key_of("user"), key_of("user", origin=OTHER)])
def test_a_listener_accepts_all_its_masters(held: Key) -> None:
    talk(end(held, "client", "scheduler", dials=True), end(RING, "scheduler", "client", dials=False))


def test_a_dialer_uses_its_first_master() -> None:
    talk(end(RING, "client", "node", dials=True), end(OTHER, "node", "client", dials=False))
    with pytest.raises(AuthenticationError):
        talk(end(RING, "client", "node", dials=True), end(MASTER, "node", "client", dials=False))


@pytest.mark.parametrize("origin", [MASTER, OTHER])
def test_a_dialer_makes_the_peers_key_from_any_of_its_masters(origin: Key) -> None:
    dialer = end(RING, "client", "node", dials=True)
    talk(dialer, end(key_of("node", "n7", origin), "node", "client", dials=False))
    assert dialer.peer is not None
    assert dialer.peer.master == origin.fingerprint


@pytest.mark.parametrize("origin", [MASTER, OTHER])
def test_a_node_with_a_new_key_and_an_old_one_is_reached_with_either_master(origin: Key) -> None:
    ring = Keys((key_of("node", "n7", OTHER), key_of("node", "n7", MASTER)))
    listener = end(ring, "node", "client", dials=False)
    talk(end(origin, "client", "node", dials=True), listener)
    assert listener.used is not None
    assert listener.used.master == origin.fingerprint


def test_nothing_is_derived_from_a_typed_master() -> None:
    typed = master(MASTER.key, is_typed=True)
    with pytest.raises(AuthenticationError, match="does not know our secret"):
        talk(
            end(key_of("user"), "client", "scheduler", dials=True),
            end(typed, "scheduler", "client", dials=False),
        )
    with pytest.raises(AuthenticationError, match="not derived from our secret"):
        talk(end(typed, "client", "node", dials=True), end(key_of("node"), "node", "client", dials=False))


# No oracle: whatever is wrong with a dialer looks the same to it.


class End:
    """A listening machine, and what it has said."""

    def __init__(self, held: Keys) -> None:
        self.machine = ConnectionMachine(to_node_decoder, held, "node", "client", is_dialer=False)
        self.machine.start(bytes([2]) * 32, NOW)

    def hear(self, body: bytes) -> bytes:
        data = frames.header(frames.CONTROL, len(body)) + body
        self.machine.writable()[: len(data)] = data
        self.machine.received(len(data))
        while self.machine.next_event(0.0) is not None:
            pass
        return self.machine.data_to_send()


def hello_of(claim: str) -> bytes:
    return encode(Hello(MAGIC, [limits.VERSION], "client", bytes([1]) * 32, claim))


BAD: dict[str, tuple[Key, str | None]] = {
    "unknown master": (key_of("user", "x", OTHER, direct=True), None),
    "wrong key": (Key(bytes(32), MASTER.fingerprint, key_of("user", direct=True).identity), None),
    "expired": (key_of("user", "alice", until=NOW - 1, direct=True), None),
    "revoked": (key_of("user", "mallory", direct=True), None),
    "wrong role": (STOLEN, None),
    "not direct": (key_of("user", "alice"), None),
    "role without business": (key_of("relay"), None),
    "no identity": (STOLEN, "nonsense"),
    "not canonical": (STOLEN, f"node:n7:serial=0:key={MASTER.fingerprint}"),
    "longest": (STOLEN, "x" * identities.TEXT_MAX),
    "claims the master": (STOLEN, ""),
}
"""Keys that must be refused, with another claim than their identity if there is one."""


@pytest.mark.parametrize("bad", BAD)
def test_whatever_is_wrong_a_dialer_sees_the_same(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same challenge, the same refusal, the same number of HMACs: nobody finds out which names there are."""
    held, claim = BAD[bad]
    assert held.identity is not None
    hello = hello_of(held.identity.text() if claim is None else claim)
    listener = End(Keys((MASTER,), (Revoked("user", "mallory"),)))
    challenge = listener.hear(hello)
    body = challenge[len(frames.header(frames.CONTROL, 0)) :]
    assert msgspec.msgpack.decode(body) == [2, limits.VERSION, bytes([2]) * 32, []]
    text = b"".join(len(part).to_bytes(4, "big") + part for part in (b"dialer", hello + body, b"node", b""))
    proof = encode([3, hmac.digest(held.key, text, "sha256")])
    counted = []
    original = hmac.digest
    monkeypatch.setattr(hmac, "digest", lambda *given: counted.append(given) or original(*given))
    assert listener.hear(proof) == frames.header(frames.CONTROL, len(REFUSAL)) + REFUSAL
    assert isinstance(listener.machine.error, AuthenticationError)
    assert len(counted) == (1 if claim == "" else 2)
    assert not listener.machine.is_ready


def test_the_key_that_stands_in_for_an_unknown_one_opens_nothing() -> None:
    """A listener with a derived key: its holder could make the stand-in, if it counted."""
    node = key_of("node", "n7")
    claim = key_of("user", "alice", OTHER, direct=True).identity
    assert claim is not None
    forged = Key(derive(node.key, claim.text()), OTHER.fingerprint, claim)

    forger = end(forged, "client", "node", dials=True, kind=Careless)
    with pytest.raises(AuthenticationError, match="does not know our secret"):
        talk(forger, end(node, "node", "client", dials=False))


@pytest.mark.parametrize(
    ("dials", "listens"),
    [(key_of("user", direct=True), MASTER), (MASTER, STOLEN), (key_of("scheduler"), MASTER)],
    ids=["user", "node", "scheduler"],
)
def test_any_changed_byte_in_any_message_ends_the_handshake(dials: Key, listens: Key) -> None:
    """Identities among them: nobody in between makes another one of them, or takes them out."""

    def ends() -> list[Handshake]:
        return [end(dials, "client", "node", dials=True), end(listens, "node", "client", dials=False)]

    said = talk(*ends())
    for index, message in enumerate(said):
        for place in range(len(message)):
            for mask in (0x01, 0x80, 0xFF):
                dialer, listener = ends()
                change = bytes([0] * place + [mask] + [0] * (len(message) - place - 1))
                with pytest.raises(DispyError):
                    _talk_changed(dialer, listener, index, change)
                assert not dialer.done


def _talk_changed(dialer: Handshake, listener: Handshake, index: int, change: bytes) -> None:
    """Let both talk; somebody in between changes bits of one message."""
    passed = dialer.start()
    for number in range(4):
        assert passed is not None
        if number == index:
            passed = bytes(one ^ other for one, other in zip(passed, change, strict=True))
        passed = (dialer if number % 2 else listener).receive(passed)


def test_identities_that_are_too_long_are_refused_as_no_protocol() -> None:
    with pytest.raises(DispyError, match="does not speak dispy's protocol"):
        end(MASTERS, "node", "client", dials=False).receive(hello_of("x" * (identities.TEXT_MAX + 1)))


def test_honest_frames_with_the_longest_identities_fit() -> None:
    name = "n" * 64
    held = [
        derived(MASTER, Identity("scheduler", name, MASTER.fingerprint, NOW + serial, serial))
        for serial in (9998, 9999)
    ]
    for message in talk(
        end(MASTERS, "client", "scheduler", dials=True),
        end(Keys(tuple(held)), "scheduler", "client", dials=False),
    ):
        assert len(message) <= limits.HANDSHAKE_FRAME_MAX
    for message in talk(
        end(held[0], "client", "node", dials=True), end(MASTERS, "node", "client", dials=False)
    ):
        assert len(message) <= limits.HANDSHAKE_FRAME_MAX


def test_a_dialer_whose_own_key_has_expired_ends_its_connection_with_that_reason() -> None:
    held = Keys((key_of("user", "alice", until=NOW, direct=True),))
    machine = ConnectionMachine(from_node_decoder, held, "client", "node", is_dialer=True)
    machine.start(bytes(32), NOW)
    assert machine.is_over
    assert machine.data_to_send() == b""
    assert "key of user alice has expired" in str(machine.error)


@pytest.mark.parametrize("held", [key_of("user", "alice"), alone(bytes(32)).first])
def test_a_refused_dialer_is_told_what_may_be_wrong(held: Key) -> None:
    dialer = end(held, "client", "scheduler", dials=True)
    dialer.start()
    with pytest.raises(
        AuthenticationError, match="revoked" if held.identity else "give both sides the same secret"
    ):
        dialer.receive(REFUSAL)
