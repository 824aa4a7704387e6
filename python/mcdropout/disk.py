"""Files on disk: only regular files are read, and a file is replaced in one step."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .checks import check_path, shown
from .errors import UnwritableFile
from .unfinished import RENAMED_WHILE_OPEN, flags_of, new_file, remove_unfinished

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A regular file, opened to read. OSError for pipes and devices, whose content may never come or never end."""
    descriptor = os.open(path, os.O_RDONLY | flags_of("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))  # no wait for a writer
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
        remove_unfinished(target.parent)
        unfinished, file = new_file(target.parent, old)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not RENAMED_WHILE_OPEN:
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


def _sync(folder: Path) -> None:
    """Write the new name to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
