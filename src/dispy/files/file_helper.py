"""The file helper: a process that becomes an account and works in its directories, for a node that is more than it.

Jobs of an account can rename, link and swap whatever they like in their directories at any time. A node that runs as
root and opens or removes something there could be led elsewhere with root's rights. So it does not: it lends this
process descriptors, and asks. The helper has the rights of the account and no others. Whatever a job leads it to, the
job could have done itself.

Theory of operation. The helper starts as root, becomes the account before it looks at any request, and has no way
back: no capabilities, no new privileges. Its real and saved user are one that nobody has, where the system allows
that, so jobs of the account can neither stop nor kill nor trace it. One thread serves each socket. The process ends
when the node has closed them all.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any, assert_never

import msgspec

from dispy.files import helper_channel
from dispy.files.installed_packages import Installed
from dispy.files.untrusted_directory import Tree, copy_range
from dispy.protocol import file_helper as protocol
from dispy.protocol.files import FileEntry
from dispy.system.processes import drop_privileges

NOBODYS = 0xFFFF_0000 - 0x1000
"""User id that no account has: real and saved user of the helper. Numbers above 2³¹ are given to nobody by any
distribution, and 65,534 is the account ``nobody``."""


def main() -> None:
    """Become the account, serve the sockets until they are closed, and end the process.

    Arguments of the command line: user id, group id, ids of other groups with commas (may be empty), and descriptors
    of the sockets.
    """
    uid, gid, groups, *channels = sys.argv[1:]
    drop_privileges(int(uid), int(gid), [int(group) for group in groups.split(",") if group], NOBODYS)
    os.umask(0o077)
    installed = Installed()
    threads = [
        threading.Thread(target=_serve, args=(socket.socket(fileno=int(channel)), installed))
        for channel in channels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)


def _serve(channel: socket.socket, installed: Installed) -> None:
    """Answer the requests of one socket until it is closed."""
    while True:
        try:
            received = helper_channel.receive(channel)
        except OSError:
            return
        if received is None:
            return
        body, descriptors = received
        opened: list[int] = []
        try:
            answer = _answer(protocol.request_decoder.decode(body), descriptors, opened, installed)
        except OSError as error:
            answer = protocol.Answer(error.errno or -1, error.strerror or str(error), _NOTHING)
        except Exception as error:  # a fault of ours: the node fails what it was for
            answer = protocol.Answer(-1, f"{type(error).__name__}: {error}", _NOTHING)
        try:
            helper_channel.send(channel, answer, opened)
        except OSError:
            return
        finally:
            helper_channel.close_all(descriptors + opened)


_NOTHING = msgspec.Raw(msgspec.msgpack.encode(None))
"""Value of an answer without one."""


def _answer(
    request: protocol.Request, descriptors: list[int], opened: list[int], installed: Installed
) -> protocol.Answer:
    """Do what a request asks for; descriptors for the answer are added to ``opened``.

    Raises:
        OSError: It cannot be done.
    """
    value: Any = None
    match request:
        case protocol.Copy(start, end):
            copy_range(descriptors[0], descriptors[1], start, end, lambda: True)
        case protocol.Empty(limit_s):
            with Tree(descriptors[0]) as tree:
                value = tree.empty(limit_s)
        case protocol.FindMissing(entries, search_path):
            with Tree(descriptors[0]) as tree:
                missing = {id(entry) for entry in installed.missing(entries, search_path, tree.has_names)}
                value = [place for place, entry in enumerate(entries) if id(entry) in missing]
        case _:
            with Tree(descriptors[0]) as tree:
                value = _in_tree(tree, request, descriptors, opened)
    return protocol.Answer(0, "", msgspec.Raw(protocol.encode(value)))


def _in_tree(tree: Tree, request: protocol.TreeRequest, descriptors: list[int], opened: list[int]) -> Any:
    """Do what a request asks for in a directory; returns the value of the answer."""
    match request:
        case protocol.HoldsAll(entries):
            return tree.holds_all(entries)
        case protocol.Put(entries):
            return [
                _put(tree, entry, source) for entry, source in zip(entries, descriptors[1:], strict=True)
            ]
        case protocol.Nameless():
            opened.append(tree.nameless())
        case protocol.Finish(entry):
            tree.finish(descriptors[1], entry)
        case protocol.Reserve(files):
            return tree.reserve(files)
        case protocol.Release(files, was_put):
            tree.release(files, was_put=was_put)
        case protocol.Descend(names, make):
            opened.append(tree.open_below(names, make=make))
        case protocol.RemoveDirectory(path):
            tree.remove_directory(path)
        case _:
            assert_never(request)
    return None


def _put(tree: Tree, entry: FileEntry, source: int) -> str:
    """Copy one file into a directory; returns the reason if it is not there, empty if it is."""
    try:
        tree.put(entry, source)
    except OSError as error:
        return f"{entry.path}: {error.strerror or error}"
    return ""
