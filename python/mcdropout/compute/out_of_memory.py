"""What happens when memory runs out."""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from ..checks import shown
from ..errors import OutOfMemory
from .forks import gradients_kept
from .memory import free_frames, free_memory, in_words

P = ParamSpec("P")
R = TypeVar("R")

# The words of torch, oneDNN, CUDA, cuBLAS, TensorFlow, JAX, safetensors, Pillow, C++, threads and the loader
OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|not enough memory|bad_alloc|memoryerror|resource_?exhausted|oom when alloc"
    "|alloc_failed|codec configuration error|storage size calculation overflowed|could not create a (primitive|memory)"
    "|can't start new thread|pointer is null|unable to mmap|failed to map segment",
    re.IGNORECASE,
)

REQUESTED = re.compile(r"(?:allocat\w*|mmap) ([\d.]+) ?(bytes|[KMGT]i?B)", re.IGNORECASE)
LEFT_ON_DEVICE = re.compile(r"of which ([\d.]+) ?([KMGT]iB) is free")
UNITS = {"bytes": 1} | {f"{'kmgt'[i]}{unit}": 1024 ** (i + 1) for i in range(4) for unit in ("ib", "b")}

LEAST_OF_DATA = 1 << 20  # bytes

ADVICE = {  # what needs less memory, by the argument that it changes
    "batch_size": "a smaller `batch_size`",
    "workers": "fewer `workers`",
    "hidden": "a smaller network",
}


class Shortage:
    """How much memory a block asked for that ran out of it, and how much was free, in words."""

    numbers = ""


@contextmanager
def suppress_out_of_memory() -> Iterator[Shortage]:
    """Leave the block without an error if it runs out of memory, and if a smaller block would need much less."""
    shortage = Shortage()
    try:
        yield shortage
    except Exception as error:
        if not is_out_of_memory(error) or not _is_of_data(error):
            raise
        shortage.numbers = _numbers_of(error)
        free_frames(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of any of the libraries."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    is_panic = type(error).__name__ == "PanicException"  # of Rust: it is no Exception
    if isinstance(error, (ValueError, TypeError, LookupError)) or not (is_panic or isinstance(error, Exception)):
        return False
    return bool(OUT_OF_MEMORY.search(_text(error)))


def explains_out_of_memory(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of a public function: where memory runs out, OutOfMemory says so with numbers and advice.

    After any error or interrupt, torch records gradients as before.

    name: what messages call the function.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        advice = _advice(function)
        without_numbers = f"`{name}()` ran out of memory; {advice}."

        @wraps(function)
        def explained(*args: P.args, **options: P.kwargs) -> R:
            try:
                with gradients_kept():
                    return function(*args, **options)
            except BaseException as error:
                if isinstance(error, OutOfMemory):
                    raise
                try:
                    cause = _memory_error_behind(error)
                    sentence = cause and f"`{name}()` ran out of memory: {_numbers_of(cause)}; {advice}."
                except MemoryError:  # no memory even for the numbers
                    sentence = without_numbers
                if sentence is None:
                    raise
                free_frames(error)
                raise OutOfMemory(sentence) from error

        return explained

    return decorate


def _memory_error_behind(error: BaseException | None) -> BaseException | None:
    """The error, or the error that was its reason, which says that memory ran out."""
    while error is not None and not is_out_of_memory(error):
        error = error.__cause__
    return error


def _requested(error: BaseException) -> float | None:
    """The bytes that were asked for, if the error says so."""
    asked = REQUESTED.search(_text(error))
    return None if asked is None else float(asked[1]) * UNITS[asked[2].lower()]


def _is_of_data(error: Exception) -> bool:
    """Whether data needed the memory. Fewer data do not help where a small object or a thread has no room."""
    asked = _requested(error)
    if asked is None:
        return isinstance(error, MemoryError) or "out of memory" in _text(error).lower()
    return asked >= LEAST_OF_DATA


def _numbers_of(error: BaseException) -> str:
    """How much memory was asked for, and how much was free; the tensors of the failed call are still there."""
    text, asked = _text(error).strip(), _requested(error)
    left = LEFT_ON_DEVICE.search(text)
    try:
        free = f"{left[1]} {left[2]} were free" if left else f"{in_words(free_memory())} were free"
    except MemoryError:
        free = "nothing was free"
    if asked is not None:
        return f"it asked for {in_words(asked)}, and {free}"
    return f"{free} ({shown(text.splitlines()[-1])})" if text else free


def _advice(function: Callable[..., object]) -> str:
    """What to change in a call of a function, from the arguments that it has."""
    arguments = inspect.signature(function).parameters
    words = [text for name, text in ADVICE.items() if name in arguments]
    return f"use {', '.join(words)} or a machine with more memory" if words else "use a machine with more memory"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # errors of the user may fail in any way
        return ""
