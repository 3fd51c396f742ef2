"""Where a secret may be used: both ends' rules as tables, and what the errors advise."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Literal

import pytest

from dispy.security import key_text, reach, secrets
from dispy.security.certificates import new_ca, new_leaf
from dispy.security.secrets import Secret
from dispy.security.tls import Tls, dialer_tls

Kind = Literal["own", "generated", "weak", "strong"]

HERE = ["127.0.0.1", "127.8.8.8", "::1"]
ELSEWHERE = ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "example.org", "localhost"]
"""Names are resolved before they get here; one that is not counts as another machine."""

NEW, FORCE, CERTIFICATES = "'dispy secret new ", "--force_weak_secret", "'dispy cert new "


def secret_of(kind: Kind) -> Secret:
    """A secret of each kind, as users come by it."""
    if kind == "own":
        return secrets.own()
    texts = {"generated": key_text.generate(), "weak": "a", "strong": "correct horse battery staple orbit"}
    return secrets.choose(texts[kind])


@pytest.mark.parametrize("kind", ["own", "generated", "weak", "strong"])
@pytest.mark.parametrize("address", HERE)
def test_on_loopback_any_secret_serves_both_ends(home: Path, kind: Kind, address: str) -> None:
    secret = secret_of(kind)
    assert reach.listen_fault(secret, address, is_forced=False) is None
    assert reach.dial_fault(secret, address, checks_listener=False) is None


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize(
    ("kind", "is_forced", "advice"),
    [
        ("own", False, [NEW]),
        ("own", True, [NEW]),
        ("generated", False, []),
        ("generated", True, []),
        ("weak", False, [NEW, FORCE]),
        ("weak", True, []),
        ("strong", False, []),
        ("strong", True, []),
    ],
)
def test_listening_beyond_loopback(
    home: Path, kind: Kind, address: str, is_forced: bool, advice: list[str]
) -> None:
    fault = reach.listen_fault(secret_of(kind), address, is_forced=is_forced)
    assert bool(fault) == bool(advice), fault
    assert all(text in str(fault) for text in [*advice, address] if advice)


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize(
    ("kind", "checks_listener", "advice"),
    [
        ("own", False, [NEW]),
        ("own", True, [NEW]),
        ("generated", False, []),
        ("generated", True, []),
        ("weak", False, [NEW, CERTIFICATES]),
        ("weak", True, []),
        ("strong", False, [NEW, CERTIFICATES]),
        ("strong", True, []),
    ],
)
def test_dialing_beyond_loopback(
    home: Path, kind: Kind, address: str, checks_listener: bool, advice: list[str]
) -> None:
    fault = reach.dial_fault(secret_of(kind), address, checks_listener=checks_listener)
    assert bool(fault) == bool(advice), fault
    assert all(text in str(fault) for text in [*advice, address] if advice)


def test_the_reason_of_a_refusal_says_how_weak(home: Path) -> None:
    fault = reach.listen_fault(secrets.choose("swordfish"), "0.0.0.0", is_forced=False)
    assert "it counts 14 bits, and 60 are needed" in str(fault)
    assert "swordfish" not in str(fault)


@pytest.mark.parametrize("kind", ["generated", "weak", "strong"])
def test_a_key_that_is_handed_on_stays_what_it_was_made_of(home: Path, kind: Kind) -> None:
    """A recovery resumes jobs with the key alone: it must not pass for a random one then."""
    first = secret_of(kind)
    handed_on = secrets.choose(first.text())
    assert (handed_on.key, handed_on.is_typed) == (first.key, first.is_typed)
    assert handed_on.text() == first.text()


@pytest.mark.parametrize(
    ("text", "is_typed"),
    [
        ("dispy1-" + "ab" * 32, False),
        ("dispy1-" + "ab" * 31, True),
        ("dispy1-" + "ab" * 31 + "a", True),
        ("dispy1-" + "xy" * 32, True),
        ("ab" * 32, True),
        ("dispy1-typed-" + "ab" * 32, True),
    ],
)
def test_only_whole_generated_secrets_count_as_random(home: Path, text: str, is_typed: bool) -> None:
    assert secrets.choose(text).is_typed == is_typed


@pytest.mark.parametrize(
    ("kind", "address", "has_certificate", "is_warned"),
    [
        ("strong", "0.0.0.0", False, True),
        ("weak", "192.0.2.1", False, True),
        ("strong", "0.0.0.0", True, False),
        ("strong", "127.0.0.1", False, False),
        ("generated", "0.0.0.0", False, False),
    ],
)
def test_a_node_that_programs_will_not_dial_is_warned_about(
    home: Path,
    caplog: pytest.LogCaptureFixture,
    kind: Kind,
    address: str,
    has_certificate: bool,
    is_warned: bool,
) -> None:
    with caplog.at_level(logging.WARNING, "dispy"):
        reach.warn_if_avoided(secret_of(kind), address, has_certificate=has_certificate)
    assert ("do not dial" in caplog.text) == is_warned


@pytest.mark.parametrize(
    ("certificates", "checks_listener"), [([], False), (["certfile"], True), (["certfile", "cafile"], True)]
)
def test_a_dialer_checks_its_listener_if_it_has_certificates(
    tmp_path: Path, certificates: list[str], checks_listener: bool
) -> None:
    new_ca(tmp_path, "CA", 10)
    certfile, keyfile = map(str, new_leaf(tmp_path, "client", ["laptop"], 5))
    files = {"certfile": certfile, "cafile": str(tmp_path / "ca.pem")}
    chosen = {name: files[name] for name in certificates}
    tls = Tls(keyfile=keyfile if certificates else None, wanted=True, **chosen)
    assert tls.checks_listener == checks_listener
    made = dialer_tls(tls)
    assert (bool(made.pinned) or made.context.verify_mode == ssl.CERT_REQUIRED) == checks_listener
