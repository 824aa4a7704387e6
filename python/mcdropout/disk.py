"""Files on disk: only regular files are read, and a file is replaced in one step."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import secrets
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .checks import check_path, shown
from .errors import UnwritableFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".mcdropout-"  # of a file that is being written; short, because the target's name may have 255 bytes

DAY = 24 * 3600  # seconds

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to read. OSError for pipes and devices, whose content may never come or never end."""
    descriptor = os.open(path, os.O_RDONLY | _flags("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))  # no wait for a writer
    try:
        problem = _irregular(os.fstat(descriptor))
        if problem is not None:
            raise OSError(errno.EINVAL, f"it is {problem}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def replaced(path: str | os.PathLike[str], name: str = "path") -> Iterator[BinaryIO]:
    """A new file, which takes the place of `path` when the block ends without an error. Until then an old file stays.

    The new file has the mode and, where the system allows it, the owner of the old one. A symbolic link stays, and
    its target is replaced. An OSError in the block is taken for an error of writing.
    """
    target, old = check_target(path, name)
    try:
        _remove_unfinished(target.parent)
        unfinished, file = _new_file(target.parent, old)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows renames only closed files
                file.close()
            os.replace(unfinished, target)  # before it is closed, because its lock protects it
            _sync(target.parent)
        finally:
            with suppress(OSError):  # on a full disk
                file.close()
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, name, error) from error


def check_target(path: str | os.PathLike[str], name: str = "path") -> tuple[Path, os.stat_result | None]:
    """The file that `path` names, behind symbolic links, and its status if it exists. Refuses what cannot be written.

    It is also called before long work whose result is to be written.
    """
    target, old = check_path(path, name), None
    if os.path.islink(target):
        target = Path(os.path.realpath(target))
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            old = os.stat(path)
        if old is None and not target.parent.is_dir():
            raise ValueError(f"`{name}` must be in a folder that exists; got {shown(str(path))}.")
        problem = None if old is None else _irregular(old)
        if problem is not None:
            raise ValueError(f"`{name}` must be a file; got {shown(str(path))}, which is {problem}.")
        for place in [target.parent] if old is None else [target.parent, target]:
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, name, error) from error
    return target, old


def _unwritable(path: str | os.PathLike[str], name: str, error: OSError) -> UnwritableFile:
    problem = error.strerror or str(error)
    return UnwritableFile(f"`{name}` must be a file that can be written; got {shown(str(path))}: {problem}.")


def _irregular(status: os.stat_result) -> str | None:
    """What it is if it is no regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    return next((words for is_kind, words in KINDS if is_kind(status.st_mode)), "no regular file")


def _new_file(folder: Path, old: os.stat_result | None) -> tuple[Path, BinaryIO]:
    """A new locked file with the mode and the owner of `old`."""
    while True:
        path = folder / f"{UNFINISHED}{_host()}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _flags("O_BINARY")
        file = os.fdopen(os.open(path, flags, 0o666 if old is None else 0o600), "w+b")
        # A save of another process may have locked and removed the file before its lock was here.
        if _lock(file.fileno()) is not False and path.exists():
            break
        file.close()
    if old is not None and os.name == "posix":
        new = os.fstat(file.fileno())
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):  # only the administrator may give files away
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        if new.st_mode != old.st_mode:
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    return path, file


def _remove_unfinished(folder: Path) -> None:
    """Remove files that processes left when they were killed.

    A process that lives holds a lock on its file. Locks are known on the whole machine, in all its containers, but
    perhaps not on others that share the folder. There only a file that has not changed for a day is removed.
    """
    for entry in os.scandir(folder):
        if not entry.name.startswith(UNFINISHED):
            continue
        with suppress(OSError):  # of another user, or removed in the meantime
            descriptor = os.open(entry.path, os.O_RDWR | _flags("O_NOFOLLOW", "O_NONBLOCK"))
            try:
                status = os.fstat(descriptor)
                is_here = entry.name.startswith(f"{UNFINISHED}{_host()}-")
                is_left = is_here or time.time() - status.st_mtime > DAY
                if stat.S_ISREG(status.st_mode) and is_left and _lock(descriptor):
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed. False if another has locked it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@functools.cache
def _host() -> str:
    """A short name of the running kernel, which containers share."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        kernel = uuid.getnode().to_bytes(8, "little")
    return hashlib.sha256(kernel).hexdigest()[:8]


def _sync(folder: Path) -> None:
    """Write the new name to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flags(*names: str) -> int:
    """The flags of this system for opening files."""
    return sum(getattr(os, name, 0) for name in names)
