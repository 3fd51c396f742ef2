"""Stores: one for each owner and account, bounded together, and nothing of them is left when they are empty."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from dispy.files.store import Store
from dispy.files.stores import YOUNG_S, Stores
from dispy.protocol.limits import SMALL_FILE_MAX

ME, YOU = b"m" * 32, b"y" * 32
CLIENT = b"c" * 16
MB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def open_stores(root: Path, size_max: int = 1 << 30, key: bytes = b"key") -> Stores:
    return Stores(root, size_max, key)


def receive(store: Store, content: bytes) -> bytes:
    """It comes from a client; returns its digest."""
    digest = hashlib.sha256(content).digest()
    part = store.begin(digest, len(content))
    part.write(0, content)
    assert part.finish()
    return digest


def use_at(store: Store, digest: bytes, seconds: int) -> None:
    """Its last use was some time after the epoch."""
    path = store._path(digest)
    os.utime(path, ns=(seconds * 10**9, os.stat(path).st_mtime_ns))


def used(root: Path) -> int:
    """Bytes of disk below a directory, besides the directory itself and the lock."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.name != "lock")


# Whose files they are.


def test_a_digest_is_no_claim_to_a_content(root: Path) -> None:
    stores = open_stores(root)
    mine = stores.of(CLIENT, ME)
    for content in (b"small", b"x" * (SMALL_FILE_MAX + 1)):
        digest = hashlib.sha256(content).digest()
        if len(content) <= SMALL_FILE_MAX:
            assert mine.add(digest, content)
        else:
            receive(mine, content)
        assert mine.has(digest, len(content))
        for other in (
            stores.of(CLIENT, YOU),
            stores.of(CLIENT, b""),
            open_stores(root, key=b"another").of(CLIENT, ME),
            open_stores(root).of(CLIENT, ME, "nobody"),
        ):
            assert not other.has(digest, len(content))
            assert other.find(digest, len(content)) is None


def test_all_nodes_and_clients_of_an_owner_share_his_files(root: Path) -> None:
    digest = receive(open_stores(root).of(CLIENT, ME), b"x" * MB)
    assert open_stores(root).of(b"d" * 16, ME).has(digest, MB)


def test_a_store_is_one_object_as_long_as_it_is_used(root: Path) -> None:
    stores = open_stores(root)
    assert stores.of(CLIENT, ME) is stores.of(b"d" * 16, ME)


def test_nobody_can_name_a_client_as_the_owner(root: Path) -> None:
    stores = open_stores(root)
    assert stores.of(YOU[:16], CLIENT).name != stores.of(CLIENT, b"").name
    assert stores.of(CLIENT, b"").name != stores.of(YOU[:16], b"").name


def test_owner_and_account_cannot_be_confused(root: Path) -> None:
    names = {
        open_stores(root).of(CLIENT, owner, account).name
        for account, owner in (("", ME), ("m", ME), ("m", ME[1:]), ("mm", ME[2:]))
    }
    assert len(names) == 4


def test_nothing_on_disk_tells_the_owner(root: Path) -> None:
    store = open_stores(root).of(CLIENT, ME)
    receive(store, b"x" * MB)
    assert len(store.name) == 32
    for path in root.rglob("*"):
        assert ME.hex()[:16] not in str(path)
        if path.is_file():
            assert ME[:8] not in path.read_bytes()
    for above in (root, root / store.name):
        assert above.stat().st_mode & 0o077 == 0


# Sizes.


@pytest.mark.parametrize("size", [0, 1, MB - 1, MB + 1])
def test_a_wrong_size_drops_nothing(root: Path, size: int) -> None:
    store = open_stores(root).of(CLIENT, ME)
    digest = receive(store, b"x" * MB)
    assert not store.has(digest, size)
    assert store.find(digest, size) is None
    assert open_stores(root).of(CLIENT, ME).has(digest, MB)


def test_a_wrong_size_drops_nothing_that_has_come(root: Path) -> None:
    store = open_stores(root).of(CLIENT, ME)
    content = os.urandom(MB)
    digest = hashlib.sha256(content).digest()
    part = store.begin(digest, MB)
    part.write(0, content[: MB // 2])
    part.close()
    wrong = store.begin(digest, 1)
    assert wrong.offset == 0
    wrong.write(0, content[:1])
    assert not wrong.finish()
    right = store.begin(digest, MB)
    assert right.offset == MB // 2
    right.write(right.offset, content[MB // 2 :])
    assert right.finish()
    assert store.has(digest, MB)


def test_a_damaged_file_is_replaced_by_a_right_one(root: Path) -> None:
    """One that a crash has cut has another size than the asker says, and he is right."""
    store = open_stores(root).of(CLIENT, ME)
    digest = receive(store, b"x" * MB)
    os.truncate(store._path(digest), 10)
    assert not store.has(digest, MB)
    receive(store, b"x" * MB)
    assert store.has(digest, MB)


# Trimming.


def test_the_sum_of_all_stores_is_bounded(root: Path) -> None:
    """What was used longest ago goes first, whose ever it is."""
    size_max = 3 * MB + MB // 2
    stores = open_stores(root, size_max)
    kept = [(stores.of(CLIENT, owner), bytes([n]) * MB) for n, owner in enumerate([ME, YOU, b"o" * 32] * 2)]
    digests = [receive(store, content) for store, content in kept]
    for n, at in enumerate([5, 1, 6, 2, 4, 3]):
        use_at(kept[n][0], digests[n], at)
    stores.trim()
    assert [kept[n][0].has(digests[n], MB) for n in range(6)] == [True, False, True, False, True, False]
    assert 0 < used(root) <= size_max


def test_many_owners_take_no_more_than_one(root: Path) -> None:
    """A file without a byte takes directories."""
    size_max = MB // 2
    stores = open_stores(root, size_max)
    empty = hashlib.sha256(b"").digest()
    for number in range(100):
        assert stores.of(CLIENT, bytes([number]) * 32).add(empty, b"")
    assert used(root) > size_max
    stores.trim()
    assert 0 < used(root) <= size_max


def test_of_what_is_empty_nothing_is_left(root: Path) -> None:
    stores = open_stores(root, 0)
    for owner in (ME, YOU):
        receive(stores.of(CLIENT, owner), b"x" * MB)
    stores.trim()
    assert os.listdir(root) == ["lock"]
    digest = receive(stores.of(CLIENT, ME), b"y" * MB)
    assert stores.of(CLIENT, ME).has(digest, MB)


def test_a_part_that_is_received_stays(root: Path) -> None:
    stores = open_stores(root, 0)
    content = b"x" * MB
    part = stores.of(CLIENT, ME).begin(hashlib.sha256(content).digest(), MB)
    part.write(0, content[:10])
    os.utime(part.path, (0, 0))
    stores.trim()
    part.write(10, content[10:])
    assert part.finish()
    assert stores.of(CLIENT, ME).has(part.digest, MB)


def test_what_an_earlier_version_has_left_is_removed(root: Path) -> None:
    """Nobody uses it: but for what a node of that version receives at this moment."""
    stores = open_stores(root)
    digest = receive(stores.of(CLIENT, ME), b"x" * MB)
    old = [Store(root) for _ in range(2)]  # its files lie in the directory of all stores itself
    receive(old[0], b"y" * MB)
    received = hashlib.sha256(b"").digest()
    part = old[1].begin(received, MB)
    part.write(0, b"some")
    os.utime(part.path, (0, 0))
    stores.trim()
    left = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    assert {path.name for path in left} == {digest.hex(), received.hex() + ".part"}
    part.close()
    old_s = os.stat(part.path).st_atime - YOUNG_S
    os.utime(part.path, (old_s, old_s))
    receive(stores.of(CLIENT, ME), b"z" * MB)
    stores.trim()
    assert {path.name for path in root.iterdir()} == {"lock", stores.of(CLIENT, ME).name}


def test_who_makes_files_and_who_removes_directories_do_not_disturb_each_other(root: Path) -> None:
    """A directory is removed between its making and its use, by another node."""
    is_over = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not is_over.is_set():
            open_stores(root, 0).trim()
            removed += 1

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        stores = open_stores(root)
        for number in range(1000):
            content = number.to_bytes(4)
            assert stores.of(CLIENT, ME).add(hashlib.sha256(content).digest(), content)
    finally:
        is_over.set()
        thread.join()
    assert removed > 1
