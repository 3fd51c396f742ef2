"""Where code of a node hands a path to the system, and why nobody else can lead it elsewhere.

A path is looked up name by name, and whoever may write to one directory on the way decides where the rest leads.
Jobs of another account (``dispynode --user``) may write to their working directories and to those of their large
data. So a process that is more than the account never opens, changes or removes anything there by path. This check
finds each call of ``os``, ``open``, ``shutil`` and ``Path`` that takes a path without a descriptor of the directory
(``dir_fd``), and compares the functions that have one with ``ALLOWED``, which says of each whose directory it is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.reverts import MUTATIONS, Mutation

SOURCE = Path(__file__).parents[2] / "src" / "dispy"

ROOTS = ("node/__main__.py",)
"""The check covers the modules that these import, directly or not, and all of ``FOLDERS``."""

FOLDERS = ("node", "files")
"""Packages of which every module is looked at, imported or not."""

OF_OS = frozenset({
    "access", "chmod", "chown", "copy_file", "getxattr", "lchown", "link", "listdir", "listxattr", "lstat",
    "makedirs", "mkdir", "mkfifo", "mknod", "open", "readlink", "remove", "removedirs", "removexattr", "rename",
    "renames", "replace", "rmdir", "scandir", "setxattr", "stat", "statvfs", "symlink", "truncate", "unlink",
    "utime", "walk", "chdir", "chroot",
})  # fmt: skip
"""Functions of ``os`` that take a path."""

OF_OS_PATH = frozenset(
    {"exists", "isdir", "isfile", "islink", "lexists", "getsize", "getmtime", "realpath", "samefile"}
)
"""Functions of ``os.path`` that ask the system; the others work on the text alone."""

OF_PATH = frozenset({
    "chmod", "lchmod", "open", "read_bytes", "read_text", "write_bytes", "write_text", "unlink", "rename", "replace",
    "mkdir", "rmdir", "touch", "iterdir", "glob", "rglob", "symlink_to", "hardlink_to", "stat", "lstat", "exists",
    "is_dir", "is_file", "is_symlink", "resolve", "readlink", "owner", "group", "samefile",
})  # fmt: skip
"""Methods of ``Path`` that hand it to the system. Found by name: few other objects have such methods."""

NOT_OF_PATH = {
    "rename": 1, "replace": 1, "open": 0, "stat": 0, "group": 0, "touch": 0, "unlink": 0, "resolve": 0,
}  # fmt: skip
"""Methods that others have, too, and how many arguments those of ``Path`` have: "a".replace("b", "c") has 2."""

DESCRIPTOR_WORDS = ("descriptor", "_descriptor", "fd", "lock", "_lock", "made", "_made")
"""Names of variables and attributes that hold descriptors: ``os.stat(descriptor)`` hands over no path."""

ALLOWED: dict[str, str] = {
    "The kernel's own files (/proc, /sys, /dev), and files of the system that only root changes.": """
        files/store.py filesystem: open
        net/port_holders.py _users: open
        node/machine/availability.py Gauge._file: open
        system/control_groups.py _read: open
        system/liveness.py _namespace: os.readlink os.path.lexists
        system/liveness.py _started: open
        system/processes.py fill_standard_descriptors: os.open
        system/processes.py is_ending: open
        system/processes.py children: os.listdir
        system/processes.py _children_of: open
        system/processes.py kill_marked: os.listdir
        system/processes.py _mark_of: open os.stat
        system/processes.py boot_id: open
        net/loopback.py _machine: .read_text
        net/loopback.py namespace: os.readlink
    """,
    "Paths that whoever starts the node has given, certificates and secrets among them: none is the account's.": """
        security/certificates.py _make_directory: .mkdir
        security/certificates.py _check_directory: .stat
        security/certificates.py _load_ca: .is_dir
        security/certificates.py _check_key_file: .lstat
        security/certificates.py _read: .is_file
        security/new_files.py write_new: os.path.lexists os.link .unlink os.unlink
        security/new_files.py replace: .resolve .stat os.chown os.rename os.unlink
        security/new_files.py _write_temporary: tempfile.mkstemp os.unlink
        security/secret_watch.py SecretWatch.look: os.stat
        security/secrets.py _read_file: .stat .read_text
        security/secrets.py _may_be_secret: .read_bytes
        security/secrets.py _read_own: os.open
        security/tls.py _load: open
        security/tls.py _load_ephemeral: tempfile.mkstemp os.unlink
        settings.py _prefix_fault: os.path.lexists os.path.isdir os.access
    """,
    "Below the state, run-time or temporary directory, in directories of the node's user alone (0700).": """
        net/discovery.py where_looked: .is_dir
        net/discovery.py Entry.keep: os.utime .exists
        net/discovery.py Entry.tidy: .stat .iterdir .lstat
        net/discovery.py Entry.close: .unlink .rmdir
        net/discovery.py Lookout._look: os.lstat os.unlink
        net/discovery.py _files: os.scandir
        net/discovery.py _decode: os.open
        system/directories.py runtime_path: os.path.isdir os.stat
        system/directories.py temporary_directory: os.path.isdir os.access
        system/directories.py shared_memory: .is_dir os.access
        system/directories.py is_private: .lstat
        system/directories.py private_directory: .mkdir .lstat
        system/directories.py make_directories: os.stat os.path.isdir os.mkdir os.chmod
        system/directories.py write_private: tempfile.mkstemp os.replace os.unlink
        system/directories.py sync_directory: os.open
        system/directories.py _substitutes: .stat os.scandir
        system/directories.py find_own: .lstat
        system/directories.py own_directory: os.chmod tempfile.mkdtemp
        system/directories.py write_private_once: .unlink os.link
        net/unix_sockets.py _address: os.open
        net/unix_sockets.py _tidy_directory: .glob .rmdir .unlink
        net/unix_sockets.py bind: os.replace os.unlink
        net/unix_sockets.py tidy: .iterdir .lstat
        net/unix_listener.py UnixListener.close: .rmdir .unlink
    """,
    "In the store, a directory of the node's user alone (0700).": """
        files/copy_in_progress.py Following._is_coming: os.lstat
        files/part.py Part.finish: os.unlink
        files/part.py Part.abandon: os.unlink
        files/part.py Part.close: os.unlink
        files/store.py Store._open: os.open
        files/store.py Store._look: os.open os.unlink
        files/store.py Store._nameless: os.open
        files/store.py Store.add: os.rename os.unlink
        files/store.py Store.begin: os.stat
        files/store.py Store.finish: os.rename
        files/store.py Store._note: os.unlink
        files/store.py Store._is_noted: os.open
        files/stores.py Stores.trim: .is_dir os.open
        files/stores.py _Trimming._directories: .is_dir os.scandir
        files/stores.py _Trimming._find: .is_dir .stat os.scandir
        files/stores.py _Trimming._remove_directory: os.rmdir
        files/stores.py _Trimming._scan: os.lstat os.scandir
        files/stores.py _Trimming.run: os.lstat os.unlink
        files/copy_in_progress.py Following.__init__: os.open
    """,
    "In the spool, a directory of the node's user alone (0700).": """
        node/results/spool.py Spool.restore: .is_dir
        node/results/spool.py Spool.load: open
        node/results/spool.py Spool._unlink: .stat .unlink
        node/results/spool.py Spool._has_lost_room: .is_dir
        node/results/spool.py Spool._drop_note: .glob .unlink
        node/results/spool_files.py write: os.open os.rename .unlink
        node/results/spool_files.py read_note: .read_bytes
        node/results/spool_recovery.py Recovery.run: .glob .stat
        node/results/spool_recovery.py Recovery._drop_damaged: .glob .unlink
        node/results/spool_recovery.py Recovery._take_over: .iterdir .unlink open .stat .rename
        node/results/spool_rooms.py Room.close: os.listdir
        node/results/spool_rooms.py lock_room: os.open
        node/results/spool_rooms.py make_room: os.rename
        node/results/spool_rooms.py read_names: .read_bytes
    """,
    "In the node's own directories for large data and work, in which only the node makes entries.": """
        node/machine/availability.py Gauge._read: os.statvfs
        node/payloads/payload_files.py Incoming.__init__: os.open
        node/payloads/payload_files.py Incoming._open: os.open
        node/payloads/payload_files.py Incoming._move: os.unlink
        node/payloads/payload_files.py Incoming.read: .read_bytes
        node/payloads/payload_files.py Incoming.discard: os.unlink
        node/payloads/segment_directories.py SegmentDirectories.use_disk: .chmod
        node/payloads/segments.py Segments.adopt_given: os.rename
        node/payloads/segments.py Segments.remove_given: .unlink
        node/payloads/segments.py Segments.drop_given: os.listdir .unlink
        node/payloads/segments.py Segments.incoming: os.listdir
        node/payloads/segments.py Segments.statistics: os.listdir
        node/payloads/segments.py _empty: os.listdir os.unlink
        node/staging/workspace.py _Destination.note_down: .unlink .write_text
        node/staging/workspace.py WorkSpace.__init__: .iterdir
        node/staging/workspace.py WorkSpace.leave: .unlink
        node/staging/workspace.py WorkSpace._sweep_noted: .glob .read_text os.open
        system/run_directory.py Place.__init__: os.chmod os.open os.rename
        system/run_directory.py sweep: .iterdir
        system/run_directory.py _is_young: .lstat
        system/run_directory.py is_abandoned: .is_dir
        system/run_directory.py is_unlocked: os.open
        node/payloads/segments.py Segments._move_in: os.rename
        node/payloads/segments.py Segments.collect: os.listdir os.path.exists
        node/payloads/segments.py Segments.put_object: os.rename
        node/staging/job_directories.py JobDirectories._finish_drop: os.rmdir
        node/staging/job_directories.py JobDirectories._remove_run_of: os.open os.rmdir
        node/staging/job_directories.py JobDirectories.drop: os.rename
        node/staging/job_directories.py make_for: os.mkdir os.open
        node/staging/workspace.py WorkSpace._make: os.chmod
        node/staging/workspace.py WorkSpace._open_kept: os.chmod
        node/staging/workspace.py WorkSpace._remove_named: os.rmdir
        system/free_space.py write_new: os.open os.unlink
        node/payloads/segments.py _give: os.open
    """,
    "In directories for large data that no account was given: without --user, or in programs.": """
        system/shared_memory.py claim_file: os.listdir os.rename os.truncate
        system/shared_memory.py free_file: os.listdir os.rename os.unlink
        system/shared_memory.py SharedPool.link: os.link
        system/shared_memory.py SharedPool.adopt: os.stat os.link
        system/shared_memory.py SharedPool._copy_of: os.open
        system/shared_memory.py SharedPool._find: os.stat
        system/shared_memory.py SharedPool._give_back: os.stat
        system/shared_memory.py SharedPool._drop: os.unlink
        system/shared_memory.py SharedPool._make: os.open os.unlink
        system/shared_memory.py SharedPool._map: os.open
        system/shared_memory.py SharedPool._forget: os.unlink
        system/run_directory.py remove_tree: os.path.lexists shutil.rmtree subprocess.run
    """,
    "Packages that are installed, which only the administrator changes; nothing but reading.": """
        files/distributions.py is_package_directory: os.path.realpath
        files/distributions.py owner_of: os.stat
        files/distributions.py _owner_of: os.listdir
        files/distributions.py _read: open
        files/distributions.py _by_names: os.path.isfile os.listdir
        files/installed_packages.py Installed._may_be: os.stat
        files/installed_packages.py Installed._is: os.open
        files/installed_packages.py _root_of: os.path.lexists
        node/processes/python_path.py _seen: os.stat
    """,
    "In programs, as their own user: the user's files, before they are sent.": """
        files/directory_listing.py place_of: os.path.realpath
        files/directory_listing.py _real: os.path.realpath
        files/directory_listing.py walk: os.path.realpath os.walk os.path.islink
        files/manifest.py _add_path: os.path.isdir
        files/manifest.py _look: os.open
        files/manifest.py read: os.open
        files/modules.py parts_of: os.path.isdir
        files/modules.py _check_directory: os.path.isdir
        files/modules.py _parts_of_installed: os.path.isdir os.path.isfile
        files/modules.py _comes_with_python: os.path.realpath
    """,
    "Asks whether a name is there, or how full a file system is: a wrong answer only makes the next step fail.": """
        files/store.py filesystem: os.stat
        system/free_space.py _disk: os.statvfs
        system/free_space.py find: os.path.lexists
        system/free_space.py _mount_of: os.stat
    """,
    "By the descriptor of a directory, or of an open file (/proc/self/fd/N): no name is looked up.": """
        files/removal.py _clear: os.listdir
        files/removal.py _permit: os.chmod
        files/untrusted_directory.py Tree.has_names: os.listdir
        files/untrusted_directory.py Tree.nameless: os.open
        node/staging/job_directories.py JobDirectories._remove_entries: os.listdir
        node/staging/job_directories.py _size_of: .stat os.scandir
    """,
}
"""By the reason why nobody can lead it elsewhere: module, function, and what it calls, in lines.

Move or remove lines when code changes; the check prints those that are new as they are written here."""

WHAT_TO_DO = """
{new}

These functions hand a path to the system, and are not in ALLOWED of {file}.
Jobs of another account may have replaced a directory on the way by a link (dispynode --user). If the path can lead
through a directory that was given to an account, do it there as that account, or open the directory first and
use the descriptor: os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor), os.rename(..., src_dir_fd=, dst_dir_fd=),
os.fchmod, os.fchown. Only if every directory on the way is the node's own, add the line above to ALLOWED, below the
reason.
"""


def imported(module: str, tree: ast.Module) -> set[str]:
    """Modules of dispy that a module imports, as files below ``SOURCE``; late imports are included."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dispy":
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "dispy"]
        for name in names:
            path = "/".join(name.split(".")[1:])
            found |= {f"{path}.py", f"{path}/__init__.py".lstrip("/")}
    # The package itself imports nothing until a name of the client is asked for.
    return {name for name in found if (SOURCE / name).is_file() and name not in (module, "__init__.py")}


@cache
def modules() -> list[str]:
    """All modules that the check covers."""
    waiting = [
        *ROOTS,
        *(p.relative_to(SOURCE).as_posix() for f in FOLDERS for p in (SOURCE / f).rglob("*.py")),
    ]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imported(module, ast.parse((SOURCE / module).read_text()))
    return sorted(seen)


def functions_with_paths(source: str) -> dict[str, list[str]]:
    """The functions of a module that hand paths to the system, each with its calls as "line: text"."""
    found: dict[str, list[str]] = {}
    for name, call in calls(ast.parse(source), "(module)"):
        if takes_path(call):
            found.setdefault(f"{name}: {called(call)}", []).append(
                f"line {call.lineno}: {ast.unparse(call)[:100]}"
            )
    return found


def called(call: ast.Call) -> str:
    """What is called: ``os.open``, ``open``, or ``.unlink`` of something."""
    function = call.func
    if isinstance(function, ast.Attribute):
        owner = ast.unparse(function.value)
        is_module = owner in ("os", "os.path", "shutil", "tempfile", "subprocess")
        return f"{owner}.{function.attr}" if is_module else f".{function.attr}"
    return ast.unparse(function)


def calls(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the name of the function that it is in: ``Class.method``; of inner ones the outermost."""
    for node in ast.iter_child_nodes(tree):
        inner = name
        if isinstance(node, ast.ClassDef):
            inner = node.name if name == "(module)" else f"{name}.{node.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_method = isinstance(tree, ast.ClassDef)
            inner = node.name if name == "(module)" else f"{name}.{node.name}" if is_method else name
        if isinstance(node, ast.Call):
            yield inner, node
        yield from calls(node, inner)


def takes_path(call: ast.Call) -> bool:
    """Whether a call hands a path to the system that is looked up from the working directory or ``/``."""
    keywords = {keyword.arg for keyword in call.keywords}
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and not is_descriptor(call)
    if not isinstance(function, ast.Attribute):
        return False
    owner, name = ast.unparse(function.value), function.attr
    if owner == "os":
        if name in ("rename", "replace", "link"):
            return not {"src_dir_fd", "dst_dir_fd"} <= keywords and not is_link_of_descriptor(
                call, keywords
            )
        return name in OF_OS and not {"dir_fd"} & keywords and not is_descriptor(call)
    if owner == "os.path":
        return name in OF_OS_PATH
    if owner == "shutil":
        return "dir_fd" not in keywords
    if owner == "tempfile":
        return name in ("mkstemp", "mkdtemp", "TemporaryDirectory", "NamedTemporaryFile")
    if owner == "subprocess" or name in ("Popen",):
        return any(
            word in ast.unparse(call) for word in ("'rm'", "'cp'", "'mv'", "'chown'", "'chmod'", "'ln'")
        )
    if name not in OF_PATH or owner.rpartition(".")[2] in ("structs", "match", "glob"):
        return False
    least = NOT_OF_PATH.get(name)
    # A method of ``Path`` with as many arguments as another object's of that name is not told from it.
    return least is None or len(call.args) == least or bool(keywords & {"missing_ok", "mode", "exist_ok"})


def is_descriptor(call: ast.Call) -> bool:
    """Whether the first argument is a descriptor, by its name."""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Call):
        return isinstance(first.func, ast.Attribute) and first.func.attr == "fileno"
    name = (
        first.attr if isinstance(first, ast.Attribute) else first.id if isinstance(first, ast.Name) else ""
    )
    return name in DESCRIPTOR_WORDS


def is_link_of_descriptor(call: ast.Call, keywords: set[str | None]) -> bool:
    """Whether an open file is linked into an open directory: ``os.link("/proc/self/fd/N", name, dst_dir_fd=…)``."""
    first = ast.unparse(call.args[0]) if call.args else ""
    return first.startswith("f'/proc/self/fd/{") and "dst_dir_fd" in keywords


@cache
def found() -> dict[str, dict[str, list[str]]]:
    """All functions with paths and what they call, by module."""
    everything = {module: functions_with_paths((SOURCE / module).read_text()) for module in modules()}
    return {module: functions for module, functions in everything.items() if functions}


@cache
def allowed() -> set[tuple[str, str, str]]:
    """Module, function and call of each entry."""
    entries = set()
    for lines in ALLOWED.values():
        for line in lines.strip().splitlines():
            place, _, names = line.strip().partition(": ")
            module, _, function = place.partition(" ")
            entries |= {(module, function, name) for name in names.split()}
    return entries


def not_allowed(module: str, functions: dict[str, list[str]]) -> list[str]:
    """Entries that ``ALLOWED`` lacks, as they would be written there, each with its lines."""
    known = allowed()
    found = []
    for function, lines in functions.items():
        name, _, call = function.partition(": ")
        if (module, name, call) not in known:
            found.append(f"{module} {function}    # {'; '.join(lines)}")
    return found


def test_no_new_function_hands_a_path_to_the_system() -> None:
    new = [line for module, functions in found().items() for line in not_allowed(module, functions)]
    assert not new, WHAT_TO_DO.format(new="\n".join(new), file=Path(__file__).name)


def test_what_is_allowed_is_there() -> None:
    now = {
        (module, *function.split(": ")) for module, functions in found().items() for function in functions
    }
    gone = sorted(" ".join(entry) for entry in allowed() - now)
    assert not gone, f"remove from ALLOWED what hands no path to the system any more: {gone}"


def test_modules_of_a_node_are_looked_at_and_those_of_programs_are_not() -> None:
    covered = modules()
    assert {"node/payloads/segments.py", "files/untrusted_directory.py", "system/run_directory.py"} <= set(
        covered
    )
    assert not [name for name in covered if name.startswith(("client/", "worker/", "payload/"))]


@pytest.mark.parametrize(
    ("source", "calls_found"),
    [
        ("os.chown(path, 0, gid)", ["os.chown"]),
        ("path.chmod(0o440)", [".chmod"]),
        ("os.open(path, flags)", ["os.open"]),
        ("os.open(name, flags, dir_fd=parent)", []),
        ("open(path)", ["open"]),
        ("os.rename(path, name)", ["os.rename"]),
        ("os.rename(path, name, dst_dir_fd=directory)", ["os.rename"]),
        ("os.rename(old, name, src_dir_fd=directory, dst_dir_fd=directory)", []),
        ("os.link(f'/proc/self/fd/{descriptor}', name, dst_dir_fd=directory)", []),
        ("os.fchmod(descriptor, 0o440)", []),
        ("os.utime(descriptor, ns=(1, 1))", []),
        ("os.stat(file.fileno())", []),
        ("shutil.rmtree(path)", ["shutil.rmtree"]),
        ("shutil.rmtree(name, dir_fd=parent)", []),
        ("subprocess.run(['rm', '-rf', path])", ["subprocess.run"]),
        ("subprocess.run(['date'])", []),
        ("directory.iterdir()", [".iterdir"]),
        ("path.unlink(missing_ok=True)", [".unlink"]),
        ("(path / 'x').write_text('')", [".write_text"]),
        ("text.replace('a', 'b')", []),
        ("path.replace(other)", [".replace"]),
        ("structs.replace(message, code=b'')", []),
        ("os.path.exists(path)", ["os.path.exists"]),
        ("os.path.join(path, name)", []),
    ],
)
def test_what_counts_as_a_path(source: str, calls_found: list[str]) -> None:
    found = functions_with_paths(f"def function():\n    {source}\n")
    assert [name.partition(": ")[2] for name in found] == calls_found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        # The owner and mode of an object are set by its path, where a job can put a link.
        (
            "node/payloads/segments.py",
            "class Segments:\n    def _write(self, path):\n        os.chown(path, os.getuid(), gid)\n",
        ),
        (
            "node/payloads/segments.py",
            "class Segments:\n    def _write(self, path):\n        path.chmod(0o440)\n",
        ),
        # A working directory is opened by its path, of which a job can replace a name.
        (
            "files/checkout.py",
            "def put_files(work):\n    return os.open(work, os.O_DIRECTORY | os.O_NOFOLLOW)\n",
        ),
        ("node/staging/job_files.py", "class Brought:\n    def _place(self):\n        open(self._work)\n"),
    ],
)
def test_a_path_in_a_directory_of_an_account_is_found(module: str, source: str) -> None:
    assert not_allowed(module, functions_with_paths(source))


if __name__ == "__main__":
    for module, functions in found().items():
        print(*not_allowed(module, functions), sep="\n")


@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if each.kind == "jobs"], ids=lambda mutation: mutation.name
)
def test_known_faults_are_noticed_where_they_come_back(mutation: Mutation) -> None:
    """The same that the fuzzer has to find (``python -m tests.fuzz jobs --mutations``)."""
    for name, old, new in mutation.changes:
        module = name.removeprefix("dispy/")
        source = (SOURCE / module).read_text()
        assert not_allowed(module, functions_with_paths(source)) == []
        assert source.count(old) == 1
        assert not_allowed(module, functions_with_paths(source.replace(old, new))) != []
