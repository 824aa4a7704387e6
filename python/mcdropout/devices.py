"""What differs between devices: how large a chunk may be, copies that nobody waits for, several devices at once.

Everything else is the same wherever tensors lie. Copies run beside the work of a CUDA device alone: elsewhere torch's
plain copy is as quick, or the only one that is sure to have arrived.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from .checks import ForkedProcess

CACHES_PER_PIECE = 128  # a GPU works on so many times what stays in a core's cache: each piece costs it some launches
CHUNKS_PER_CARD = 64  # of what a chunk works on the largest result is a part, and torch keeps blocks for later

Given = TypeVar("Given")
Made = TypeVar("Made")


def chunk_bytes(device: torch.device, on_cpu: int) -> int:
    """Bytes of the largest intermediate result of a chunk.

    On a card a share of its whole memory, free or not, so that two runs agree to the bit: as much as it holds, since
    small pieces leave most of it idle. `on_cpu` elsewhere, where a piece is to stay in cache.
    """
    card: Any = None if device.type == "cpu" else torch.get_device_module(device)
    if hasattr(card, "get_device_properties"):
        return max(on_cpu, card.get_device_properties(device).total_memory // CHUNKS_PER_CARD)
    if hasattr(card, "recommended_max_memory"):  # Apple's
        return max(on_cpu, card.recommended_max_memory() // CHUNKS_PER_CARD)
    return on_cpu


def piece_size(device: torch.device, in_cache: int) -> int:
    """How much is worked on in one go, of which `in_cache` stays in the cache of a core."""
    return in_cache if device.type == "cpu" else in_cache * CACHES_PER_PIECE


def for_float64(device: torch.device) -> torch.device:
    """Where float64 and 64-bit words are worked with: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def chosen(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, the device is the current one, which kernels from outside torch ask for; every thread has its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def give_memory_back(device: torch.device) -> None:
    """Hand blocks that torch keeps for later, and that may be of the wrong sizes, back to the device."""
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        if hasattr(card, "empty_cache"):
            card.empty_cache()


def answers_at_once(x: Tensor) -> bool:
    """Whether Python may ask for a number of this tensor: elsewhere the answer waits for all work that is under way."""
    return x.is_cpu


# ---- processes that are forked off ----------------------------------------------------------------------------


CANNOT_FORK = ("tensorflow", "jax")  # wait for ever in a process forked off one that has them
LEFT_BEHIND: set[str] = set()  # of them, those that this process was forked off with
LOCKS: WeakSet[Any] = WeakSet()  # which nobody holds in a process that is forked off
IN_CHILD: list[Callable[[], object]] = []  # what else such a process does first


def in_forked_child() -> None:
    """Make a process that was just forked off able to compute: with one thread of torch.

    The others were not copied, and what is shared out among them would be waited for for ever. Python calls this by
    itself; R's `parallel::mclapply()` forks past it, so the R package calls it.
    """
    LEFT_BEHIND.update(name for name in CANNOT_FORK if name in sys.modules)
    torch.set_num_threads(1)
    for lock in LOCKS:
        lock._at_fork_reinit()  # as `threading` does with its own
    for one in IN_CHILD:
        one()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=in_forked_child)


def check_can_go_on(backend: str) -> None:
    """Refuse a backend of Keras's that this process was forked off with."""
    if backend in LEFT_BEHIND:
        raise ForkedProcess(f"Keras's backend {backend}")


def shared_lock() -> threading.RLock:
    """A lock that is free in a process that is forked off, whoever held it."""
    made = threading.RLock()
    LOCKS.add(made)
    return made


# ---- torch's own generators -----------------------------------------------------------------------------------


def generator_states(device: torch.device) -> list[Tensor]:
    """States of the generators that a model on the device may draw from: the host's, and the device's own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        states.append(card.get_rng_state(*_named(device)))
    return states


def put_back(states: list[Tensor], device: torch.device) -> None:
    """Set the generators to the states that they had."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        card.set_rng_state(states[1], *_named(device))


def seed_generators(seed: int, device: torch.device) -> None:
    """Start both from `seed`, and those of no other device, as `torch.manual_seed()` would."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        card: Any = torch.get_device_module(device)
        with chosen(device):
            card.manual_seed(seed)


def _named(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of Apple's there is one


# ---- copies ---------------------------------------------------------------------------------------------------


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's memory on the device.

    To a CUDA device from pinned memory on a stream of its own, so that it travels while the device works on what came
    before; what follows on the device waits for it there.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    here, beside = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(beside):
        copy = x.pin_memory().to(device, non_blocking=True)
    here.wait_stream(beside)
    copy.record_stream(here)  # its memory is not given to the next copy before it has been used
    return copy


@cache
def _copying(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


def fetched(tensors: dict[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start to copy tensors of one device to the host; what is returned waits for them and gives arrays.

    From a CUDA device all in one, into pinned memory, behind what the device has been asked to compute.
    """
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        arrays = {name: one.cpu().numpy() for name, one in tensors.items()}
        return lambda: arrays
    packed = pack(tensors)
    host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    forms = {name: (one.shape, one.dtype) for name, one in tensors.items()}

    def arrived() -> dict[str, np.ndarray]:
        done.synchronize()
        return unpack(host, forms)

    return arrived


def pack(tensors: dict[str, Tensor]) -> Tensor:
    """Tensors as one run of bytes, those of the widest numbers first, so that each starts where it may."""
    by_width = sorted(tensors.values(), key=lambda one: -one.itemsize)
    # Not view(-1): a column of one number is contiguous whatever its stride, and bytes are seen in a stride of 1 only.
    flat = [tensor.contiguous().as_strided((tensor.numel(),), (1,)) for tensor in by_width]
    return torch.cat([tensor.view(torch.uint8) for tensor in flat])


def unpack(packed: Tensor, forms: dict[str, tuple[torch.Size, torch.dtype]]) -> dict[str, np.ndarray]:
    """Arrays of what was packed, by name; `forms` are the tensors' shapes and types in their order."""
    arrays, start = {}, 0
    for name, (shape, dtype) in sorted(forms.items(), key=lambda form: -form[1][1].itemsize):
        end = start + shape.numel() * dtype.itemsize
        arrays[name] = packed[start:end].view(dtype).view(shape).numpy()
        start = end
    return arrays


# ---- several devices ------------------------------------------------------------------------------------------


class Lanes:
    """Work for several devices, each driven by a thread of its own; with one, the caller's thread does it."""

    def __init__(self, n_lanes: int) -> None:
        # a new thread knows the caller's setting in some of torch's operations only, before it is told
        told = partial(torch.set_num_threads, torch.get_num_threads())
        self.threads = [ThreadPoolExecutor(1, initializer=told) for _ in range(n_lanes)] if n_lanes > 1 else []

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self.threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in self.threads:
            thread.shutdown()

    def in_order(self, work: Callable[[Given, int], Made], given: Iterable[Given]) -> Iterator[Made]:
        """work(one, lane) for each of `given`, in order; the lanes take turns, and each has one more waiting.

        `given` is asked by the caller's thread alone: it may be an iterator that no other may touch.
        """
        if not self.threads:
            for one in given:
                yield work(one, 0)
            return
        under_way: deque[Future[Made]] = deque()
        for number, one in enumerate(given):
            lane = number % len(self.threads)
            under_way.append(self.threads[lane].submit(work, one, lane))
            if len(under_way) == 2 * len(self.threads):
                yield awaited(under_way.popleft())
        while under_way:
            yield awaited(under_way.popleft())


def awaited(future: Future[Made]) -> Made:
    """The result of a thread, waited for in a way that lets an interrupt in."""
    while True:
        try:
            return future.result(timeout=0.1)  # an interrupt from R is seen between waits only
        except TimeoutError:
            if future.done():
                raise
