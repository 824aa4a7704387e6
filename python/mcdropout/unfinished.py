"""Files that are being written, and those that killed processes have left."""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".mcdropout-"  # short, because the name of the file that is saved may have 255 bytes

DAY = 24 * 3600  # seconds

RENAMED_WHILE_OPEN = os.name == "posix"  # Windows renames only closed files


def new_file(folder: Path, old: os.stat_result | None) -> tuple[Path, BinaryIO]:
    """A new locked file with the mode and the owner of `old`."""
    while True:
        path = folder / f"{UNFINISHED}{_host()}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | flags_of("O_BINARY")
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


def remove_unfinished(folder: Path) -> None:
    """Remove files that processes left when they were killed.

    A process that lives holds a lock on its file. Locks are known on the whole machine, in all its containers, but
    perhaps not on others that share the folder. There only a file that has not changed for a day is removed.
    """
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError):  # a folder that may be written and not listed
        entries.extend(os.scandir(folder))
    for entry in entries:
        if not entry.name.startswith(UNFINISHED):
            continue
        with suppress(OSError):  # of another user, or removed in the meantime
            descriptor = os.open(entry.path, os.O_RDWR | flags_of("O_NOFOLLOW", "O_NONBLOCK"))
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


def flags_of(*names: str) -> int:
    """The flags of this system for opening files."""
    return sum(getattr(os, name, 0) for name in names)
