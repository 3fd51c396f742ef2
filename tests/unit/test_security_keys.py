"""Keys and identities as text: what is written is read, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy.errors import UsageError
from dispy.security import identities, key_text, keys, reach, secrets
from dispy.security.identities import ROLES, SERIAL_MAX, Identity, Revoked
from dispy.security.keys import Keys, derived, master

MASTER = master(bytes(range(32)))
GENERATED = key_text.generate()
NOW = 1_800_000_000

names = st.from_regex(identities.NAME, fullmatch=True).filter(str.isascii)
identity_of = st.builds(
    Identity,
    st.sampled_from(ROLES),
    names,
    st.just(MASTER.fingerprint),
    st.none() | st.integers(0, 253_402_300_799),
    st.integers(0, SERIAL_MAX),
)


@given(identity_of, st.booleans())
def test_an_identity_is_read_as_it_was_written(identity: Identity, is_direct: bool) -> None:
    if identity.role == "user":
        identity = Identity(
            "user", identity.name, identity.master, identity.until, identity.serial, is_direct
        )
    text = identity.text()
    assert len(text) <= identities.TEXT_MAX
    assert identities.parse(text) == identity


@given(identity_of, st.data())
def test_a_changed_identity_is_another_one_with_another_key(
    identity: Identity, data: st.DataObject
) -> None:
    text = identity.text()
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.characters(max_codepoint=255)) + text[place + 1 :]
    other = identities.parse(changed)
    assert (other == identity) == (changed == text)
    if other is not None and other != identity:
        assert keys.derive(MASTER.key, changed) != keys.derive(MASTER.key, text)


@pytest.mark.parametrize(
    "text",
    [
        "", "user", "user:alice", "user::key=0123456789abcdef", "User:alice:key=0123456789abcdef",
        "user:al ice:key=0123456789abcdef", "user:alice:key=0123456789ABCDEF", "user:alice:key=0123456789abcdef\n",
        "user:alice:serial=0:key=0123456789abcdef", "user:alice:serial=01:key=0123456789abcdef",
        "user:alice:until=20270231T000000Z:key=0123456789abcdef", "user:alice:until=2027:key=0123456789abcdef",
        "user:alice:until=20270101T000000Z:serial=1:key=0123456789abcdef", "node:n7:direct:key=0123456789abcdef",
        "user:-alice:key=0123456789abcdef", f"user:{'a' * 65}:key=0123456789abcdef",
        "king:alice:key=0123456789abcdef",
        "user:\u0661lice:key=0123456789abcdef", "user:alice:serial=\u0661:key=0123456789abcdef",
    ],
)  # fmt: skip
def test_what_is_no_identity_is_none(text: str) -> None:
    assert identities.parse(text) is None


def test_keys_do_not_show_themselves() -> None:
    line = derived(MASTER, Identity("user", "alice", MASTER.fingerprint))
    for shown in (repr(line), str(line), repr(Keys((line, MASTER))), repr(secrets.choose("pass"))):
        assert line.key.hex() not in shown
        assert str(line.key) not in shown
        assert repr(MASTER.key) not in shown
    assert repr(secrets.choose("pass").key) not in repr(secrets.choose("pass"))


@given(identity_of)
def test_a_derived_key_is_read_as_it_was_written(identity: Identity) -> None:
    line = derived(MASTER, identity)
    text = key_text.write(line)
    read = secrets.choose(text)
    assert read.keys == Keys((line,))
    assert (read.is_own, read.is_typed, read.weakness) == (False, False, "")
    assert read.fingerprint() == MASTER.fingerprint
    assert read.text() == text


@pytest.mark.parametrize("cut", [1, 8, 64, 65, 70])
def test_a_damaged_derived_key_is_refused_and_not_taken_for_a_typed_secret(cut: int) -> None:
    text = key_text.write(derived(MASTER, Identity("user", "alice", MASTER.fingerprint)))
    with pytest.raises(UsageError, match="damaged"):
        secrets.choose(text[:-cut])
    with pytest.raises(UsageError, match="damaged"):
        secrets.choose(text.replace("alice", "al ice"))


def test_a_secret_of_several_lines_uses_the_first_and_accepts_all() -> None:
    secret = secrets.choose(
        f"{GENERATED}\n\n  {key_text.generate()}  \nrevoked user alice 3\nrevoked node n7\n"
    )
    assert secret.key.hex() in GENERATED
    assert len(secret.keys.lines) == 2
    assert secret.keys.revoked == (Revoked("user", "alice", 3), Revoked("node", "n7"))
    assert secrets.choose(secret.text()) == secret


def test_one_typed_line_makes_the_secret_typed() -> None:
    secret = secrets.choose(f"{GENERATED}\npass")
    assert secret.is_typed
    assert secret.weakness
    assert [line.is_typed for line in secret.keys.lines] == [False, True]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([GENERATED, "revoked user"], "line 2 of the secret revokes"),
        ([GENERATED, "revoked king alice"], "revokes keys, and cannot be read"),
        (["revoked user alice", "revoked user bob"], "0 keys"),
        ([GENERATED] * 9, "9 keys"),
        (
            [GENERATED, key_text.write(derived(MASTER, Identity("user", "a", MASTER.fingerprint)))],
            "do not belong",
        ),
        (
            [
                key_text.write(derived(MASTER, Identity("user", "a", MASTER.fingerprint))),
                key_text.write(derived(MASTER, Identity("user", "b", MASTER.fingerprint))),
            ],
            "do not belong",
        ),
        (
            [
                key_text.write(derived(MASTER, Identity("user", "a", MASTER.fingerprint, None, serial)))
                for serial in range(3)
            ],
            "3 derived keys; 2 are possible",
        ),
    ],
)
def test_lines_that_make_no_secret_are_refused(lines: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        secrets.choose("\n".join(lines))


def test_a_single_line_is_a_secret_whatever_it_is() -> None:
    for text in ("revoked user alice", " pass ", "# not a comment"):
        assert secrets.choose(text).key == key_text.stretch(text)


def test_a_file_that_begins_with_a_key_may_be_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{GENERATED}\nrevoked user alice\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        secrets.choose(secret_file=str(path))


# Where they may be used.


@pytest.mark.parametrize(
    ("role", "is_direct", "place", "advice"),
    [
        ("user", False, ("client", "scheduler"), None),
        ("user", False, ("client", "node"), "SharedJobCluster"),
        ("user", True, ("client", "node"), None),
        ("user", False, ("scheduler", "client"), "SharedJobCluster"),
        ("node", False, ("node", "client"), None),
        ("node", False, ("client", "node"), "dispynode --secret_file"),
        ("node", False, ("client", "scheduler"), "dispynode --secret_file"),
        ("scheduler", False, ("client", "node"), None),
        ("scheduler", False, ("scheduler", "client"), None),
        ("scheduler", False, ("client", "scheduler"), "dispyscheduler"),
        ("admin", False, ("client", "scheduler"), "nothing takes it yet"),
        ("relay", False, ("client", "node"), "nothing takes it yet"),
    ],
)
def test_a_key_at_the_wrong_place_says_where_it_belongs(
    role: identities.Role, is_direct: bool, place: tuple[str, str], advice: str | None
) -> None:
    line = derived(MASTER, Identity(role, "x", MASTER.fingerprint, is_direct=is_direct))
    secret = secrets.Secret(Keys((line,)), is_own=False)
    fault = reach.use_fault(secret, *place, NOW)
    assert (fault is None) == (advice is None)
    if advice is not None:
        assert f"the key of {role} x opens no {place[1]} to a {place[0]}" in str(fault)
        assert advice in str(fault)


def test_an_expired_key_says_when_and_how_to_get_another() -> None:
    line = derived(MASTER, Identity("user", "alice", MASTER.fingerprint, NOW))
    secret = secrets.Secret(Keys((line,)), is_own=False)
    assert reach.use_fault(secret, "client", "scheduler", NOW - 1) is None
    fault = str(reach.use_fault(secret, "client", "scheduler", NOW))
    assert "expired at 2027-01-15 08:00:00 UTC" in fault
    assert "'dispy secret derive user alice'" in fault


def test_a_master_opens_everything() -> None:
    secret = secrets.Secret(Keys((MASTER,)), is_own=False)
    assert reach.use_fault(secret, "client", "node", NOW) is None
