"""Files are replaced in one step, whatever happens to the processes that write them."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from mcdropout import disk, unfinished
from mcdropout.errors import UnwritableFile

PACKAGES = str(Path(disk.__file__).parents[1])


def put(path: Path | str, content: bytes = b"new") -> None:
    with disk.replaced(path) as file:
        file.write(content)


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python that runs `code`, with the package and without torch."""
    start = f"import sys; sys.path.insert(0, {PACKAGES!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


# One step -----------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    for content in (b"old", b"new"):
        put(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_keeps_the_old_file(tmp_path, error):
    def write_half():
        with disk.replaced(tmp_path / "file") as file:
            file.write(b"half of it")
            raise error

    put(tmp_path / "file", b"old")
    with pytest.raises(type(error)):
        write_half()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_threads_that_write_one_path_never_meet(tmp_path):
    contents, errors = [bytes([i]) * 300_000 for i in range(4)], []

    def write(content):
        try:
            for _ in range(12):
                put(tmp_path / "file", content)
        except OSError as error:
            errors.append(error)

    put(tmp_path / "file", contents[0])
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert (tmp_path / "file").read_bytes() in contents
    assert errors == []
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_mode_of_new_files_and_an_old_one_keeps_its_own(tmp_path, umask):
    before = os.umask(umask)
    try:
        put(tmp_path / "new")
        (tmp_path / "private").touch(0o600)
        (tmp_path / "shared").touch()
        (tmp_path / "shared").chmod(0o664)
        for name, mode in {"new": 0o666 & ~umask, "private": 0o600, "shared": 0o664}.items():
            put(tmp_path / name)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("folder/target")
    (tmp_path / "to nothing").symlink_to("folder/other")
    put(tmp_path / "link")
    put(tmp_path / "to nothing")
    assert [(tmp_path / name).is_symlink() for name in ("link", "to nothing")] == [True, True]
    assert [(tmp_path / "folder" / name).read_bytes() for name in ("target", "other")] == [b"new", b"new"]
    assert len(os.listdir(tmp_path)) == 3


def test_the_longest_name_can_be_written(tmp_path):
    put(tmp_path / ("n" * 255))
    assert os.listdir(tmp_path) == ["n" * 255]


# What cannot be written -----------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    """Paths that are no files."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    names = ("pipe", "link to a pipe", "socket")
    return {
        "folder": str(tmp_path),
        "root": "/",
        "device": "/dev/null",
        **{name: str(tmp_path / name) for name in names},
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("folder", "a folder"),
        ("root", "a folder"),
        ("device", "a device"),
        ("pipe", "a pipe"),
        ("link to a pipe", "a pipe"),
        ("socket", "a socket"),
    ],
)
def test_what_is_no_file_is_neither_replaced_nor_read(places, name, kind):
    with pytest.raises(ValueError, match=rf'^`path` must be a file; got ".*", which is {kind}\.$'):
        put(places[name])
    with pytest.raises(OSError, match=f"it is {kind}|No such device"):
        disk.opened(places[name])
    assert os.path.lexists(places[name])
    assert not Path(places[name]).is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("n" * 256, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("none/file", None),
        ("file/file", None),
        ("", "must be a path"),
        ("a\0b", "must be a path"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_in_one_sentence(tmp_path, monkeypatch, name, problem):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").touch()
    match = problem or "`path` must be in a folder that exists"
    with pytest.raises(ValueError, match=match) as caught:
        put(name)
    assert str(caught.value).startswith("`path` must be ")
    assert sorted(os.listdir()) == ["file", "loop"]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    put(tmp_path / "file", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for size in (10_001, 1_000_000):  # noticed when the file is flushed, and before
            with pytest.raises(UnwritableFile, match=r'^`path` must be a file that can be written; got ".*file": File'):
                put(tmp_path / "file", b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


AS_NOBODY = """
import os
from mcdropout import disk
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in ("new", "file"):
    try:
        with disk.replaced(f"{sys.argv[1]}/{name}") as file:
            file.write(b"new")
    except disk.UnwritableFile as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(("folder_mode", "file_mode", "n_refused"), [(0o755, 0o666, 2), (0o777, 0o644, 1)])
def test_a_folder_or_a_file_without_permission_is_refused(folder_mode, file_mode, n_refused):
    with tempfile.TemporaryDirectory() as name:  # others may not enter the folders of pytest
        folder = Path(name)
        (folder / "file").write_bytes(b"old")
        folder.chmod(folder_mode)
        (folder / "file").chmod(file_mode)
        lines = process(AS_NOBODY, folder).communicate()[0].splitlines()
        assert [line.endswith('": Permission denied.') for line in lines] == [True] * n_refused
        assert (folder / "file").read_bytes() == b"old"


# What killed processes leave ------------------------------------------------------------------------------------


WRITE_AND_WAIT = """
from mcdropout import disk
with disk.replaced(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_with_the_next_save_and_not_before(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {PACKAGES!r})\n{WRITE_AND_WAIT}", tmp_path / "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    put(tmp_path / "other")  # the process lives, so its file stays
    assert len(os.listdir(tmp_path)) == 2
    child.kill()
    child.communicate()
    assert len(os.listdir(tmp_path)) == 2
    put(tmp_path / "other")
    assert os.listdir(tmp_path) == ["other"]


def test_files_of_other_machines_stay_for_a_day(tmp_path):
    names = [f"{unfinished.UNFINISHED}{host}-{'0' * 16}" for host in (unfinished._host(), "elsewhere")]
    old = f"{unfinished.UNFINISHED}elsewhere-{'1' * 16}"
    for name in (*names, old, ".mcdropout", "other"):
        (tmp_path / name).touch()
    two_days_ago = time.time() - 2 * unfinished.DAY
    os.utime(tmp_path / old, (two_days_ago, two_days_ago))
    put(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == sorted([names[1], ".mcdropout", "file", "other"])


def test_a_save_survives_that_another_takes_its_new_file_for_a_left_over(tmp_path, monkeypatch):
    lock, taken = unfinished._lock, []

    def locked_too_late(descriptor):
        if not taken:
            taken.extend(name for name in os.listdir(tmp_path) if name.startswith(unfinished.UNFINISHED))
            os.unlink(tmp_path / taken[0])
        return lock(descriptor)

    monkeypatch.setattr(unfinished, "_lock", locked_too_late)
    put(tmp_path / "file")
    assert len(taken) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_locks_keeps_its_unfinished_files(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "fcntl", None)
    (tmp_path / f"{unfinished.UNFINISHED}{unfinished._host()}-0").touch()
    put(tmp_path / "file")
    assert len(os.listdir(tmp_path)) == 2


DIES_IN = """
import os, signal
from mcdropout import disk
function = getattr(os, sys.argv[2])
def dies(*arguments):
    if sys.argv[3] == "after":
        function(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
with disk.replaced(sys.argv[1]) as file:
    file.write(b"new")
    setattr(os, sys.argv[2], dies)
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_dies_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path, call, moment):
    put(tmp_path / "file", b"old")
    child = process(DIES_IN, tmp_path / "file", call, moment)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    is_new = (call, moment) == ("replace", "after")
    assert (tmp_path / "file").read_bytes() == (b"new" if is_new else b"old")
    assert len(os.listdir(tmp_path)) == (1 if is_new else 2)
    put(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def is_folder(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", is_folder)
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("name"), replace(*names)))
    put(tmp_path / "file")
    assert steps == ["content", "name", "folder"]


WRITE_ON = """
from mcdropout import disk
content = bytes([int(sys.argv[2])]) * 2_000_000
for number in range(int(sys.argv[3])):
    with disk.replaced(sys.argv[1]) as file:
        file.write(content)
    if number == 0:
        print("first", flush=True)
"""


def is_whole(path: Path) -> bool:
    content = path.read_bytes()
    return len(content) == 2_000_000 and len(set(content)) == 1


@pytest.mark.parametrize("n", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_two_processes_write_one_path_and_every_reader_finds_a_whole_file(tmp_path, n):
    path = tmp_path / "file"
    writers = [process(WRITE_ON, path, tag, n) for tag in (1, 2)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    while any(writer.poll() is None for writer in writers):
        assert is_whole(path)
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("n", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_process_killed_while_it_writes_leaves_a_whole_file(tmp_path, n):
    path, moments = tmp_path / "file", random.Random(0)
    for number in range(n):
        child = process(WRITE_ON, path, number % 256, 10**6)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.02))  # any moment serves
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert is_whole(path)
    put(path)
    assert os.listdir(tmp_path) == ["file"]
