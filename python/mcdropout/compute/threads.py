"""Threads: one for each device, and workers that share the chunks of one prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from functools import partial
from threading import Barrier, Thread
from typing import TypeVar

import torch

from .forks import shared_lock

Given = TypeVar("Given")

Made = TypeVar("Made")


class DeviceThreads:
    """Work for several devices, each driven by a thread of its own; with one, the caller's thread does it."""

    def __init__(self, n_devices: int) -> None:
        # a new thread knows the caller's setting in some of torch's operations only, before it is told
        told = partial(torch.set_num_threads, torch.get_num_threads())
        self.threads = [ThreadPoolExecutor(1, initializer=told) for _ in range(n_devices)] if n_devices > 1 else []

    def __enter__(self) -> DeviceThreads:
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self.threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in self.threads:
            thread.shutdown()

    def in_order(self, work: Callable[[Given, int], Made], given: Iterable[Given]) -> Iterator[Made]:
        """work(one, device_index) for each of `given`, in order; the threads take turns, and each has one more waiting.

        `given` is asked by the caller's thread alone: it may be an iterator that no other may touch.
        """
        if not self.threads:
            for one in given:
                yield work(one, 0)
            return
        under_way: deque[Future[Made]] = deque()
        for number, one in enumerate(given):
            device_index = number % len(self.threads)
            under_way.append(self.threads[device_index].submit(work, one, device_index))
            if len(under_way) == 2 * len(self.threads):
                yield result_of(under_way.popleft())
        while under_way:
            yield result_of(under_way.popleft())


def result_of(future: Future[Made]) -> Made:
    """The result of a thread, waited for in a way that lets an interrupt in."""
    while True:
        try:
            return future.result(timeout=0.1)  # an interrupt from R is seen between waits only
        except TimeoutError:
            if future.done():
                raise


T = TypeVar("T")

NEW_THREADS = shared_lock()  # how many threads of torch a new thread gets is one number for the whole process


def _threads_of_one(n: int) -> ThreadPoolExecutor:
    """So many threads, each of which works with one thread of torch.

    Torch has no such setting for one thread alone: what one sets, all that come after it start with. So all are made
    before there is any work, and a last one, which does nothing else, puts back what new threads had.
    """
    pool, all_here = ThreadPoolExecutor(n), Barrier(n)

    def settle() -> int:
        usual = torch.get_num_threads()
        all_here.wait()  # so that none takes the place of another
        torch.set_num_threads(1)
        return usual

    with NEW_THREADS:
        try:
            usual = [result_of(one) for one in [pool.submit(settle) for _ in range(n)]]
        except BaseException:  # no room for so many
            all_here.abort()
            pool.shutdown(wait=False)
            raise
        last = Thread(target=torch.set_num_threads, args=(usual[0],))
        last.start()
        last.join()
    return pool


class Workers:
    """Threads that work on chunks side by side, for as long as one prediction takes.

    Each computes with one thread of torch: whole chunks side by side wait for nobody, where threads that share every
    small operation wait for each other at its end, and the numbers do not depend on how many there are. They are made
    once, when the first two chunks come: every new thread would take memory of its own and keep it.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.pool: ThreadPoolExecutor | None = None

    @classmethod
    def wanted(cls, workers: int | None, device: torch.device, sharing: int = 1) -> Workers:
        """As many as asked for; else, on a CPU, as torch would use for one operation: elsewhere one drives all.

        `sharing`: how many groups of workers use the device.
        """
        return cls(workers or (max(1, torch.get_num_threads() // sharing) if device.type == "cpu" else 1))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map_parallel(self, work: Callable[[slice], T], parts: list[slice]) -> Iterator[T]:
        """The results for all parts, in order."""
        if self.n_workers == 1 or len(parts) == 1:
            return map(work, parts)
        if self.pool is None:
            self.pool = _threads_of_one(self.n_workers)
        return map(result_of, [self.pool.submit(work, part) for part in parts])
