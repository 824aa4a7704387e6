"""Threads: one thread for each device, and workers that share the chunks of one prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, TimeoutError
from threading import Barrier, Thread
from typing import TypeVar

import torch

from .forks import shared_lock
from .memory import free_memory
from .pool import Pool

Job = TypeVar("Job")

Result = TypeVar("Result")

WORKER_BYTES = 64 << 20  # memory of a worker; where there is less, the C++ library may end the process


class DeviceThreads:
    """Work for several devices, each with its own thread; the work of a single device runs in the caller's thread."""

    def __init__(self, n_devices: int) -> None:
        # a new thread follows the caller's number of threads in only some operations of torch until it sets the number
        self.threads = [Pool(1) for _ in range(n_devices if n_devices > 1 else 0)]
        for thread in self.threads:
            thread.submit(torch.set_num_threads, torch.get_num_threads())

    def __enter__(self) -> DeviceThreads:
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self.threads:
            thread.shutdown(wait=False)
        for thread in self.threads:
            thread.shutdown()

    def in_order(self, work: Callable[[Job, int], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """work(job, device_index) for each job, in order; the threads take turns, and each has one more job waiting.

        Only the caller's thread iterates over `jobs`, so an iterator that belongs to this thread is allowed.
        """
        if not self.threads:
            for job in jobs:
                yield work(job, 0)
            return
        running: deque[Future[Result]] = deque()
        for number, job in enumerate(jobs):
            device_index = number % len(self.threads)
            running.append(self.threads[device_index].submit(work, job, device_index))
            if len(running) == 2 * len(self.threads):
                yield result_of(running.popleft())
        while running:
            yield result_of(running.popleft())


def result_of(future: Future[Result]) -> Result:
    """Wait for the result of a thread; an interrupt can stop the wait."""
    while True:
        try:
            return future.result(timeout=0.1)  # an interrupt from R is noticed only between waits
        except TimeoutError:
            if future.done():
                raise


NEW_THREADS = shared_lock()  # the number of torch threads of a new thread is one setting of the whole process


def _single_threaded_pool(n: int) -> Pool:
    """A pool of `n` threads, each of which works with one thread of torch.

    Torch has no such setting for a single thread: new threads start with the number that any thread set last. So all
    threads are started before any work. A last thread only restores the number for new threads.
    """
    pool, all_started = Pool(n), Barrier(n)

    def use_one_thread() -> int:
        n_before = torch.get_num_threads()
        all_started.wait()  # so that no thread runs this function twice
        torch.set_num_threads(1)
        return n_before

    with NEW_THREADS:
        try:
            n_before = [result_of(future) for future in [pool.submit(use_one_thread) for _ in range(n)]]
        except BaseException:  # the system has no room for so many threads
            all_started.abort()
            pool.shutdown(wait=False)
            raise
        restoring = Thread(target=torch.set_num_threads, args=(n_before[0],))
        restoring.start()
        restoring.join()
    return pool


class Workers:
    """Threads that work on chunks in parallel, for the time of one prediction.

    Each worker computes with one thread of torch. Workers on different chunks never wait for each other, while threads
    that share every small operation wait at its end. The numbers do not depend on the number of workers. The threads
    start once, at the first call with two or more chunks: every new thread takes memory and keeps it.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.pool: Pool | None = None

    @classmethod
    def for_device(cls, workers: int | None, device: torch.device, sharing: int = 1) -> Workers:
        """Workers for a device: by default, on a CPU as many as torch has threads; one on any other device.

        sharing: How many groups of workers use the device.
        """
        return cls(workers or (max(1, torch.get_num_threads() // sharing) if device.type == "cpu" else 1))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def map_parallel(self, work: Callable[[slice], Result], parts: list[slice]) -> Iterator[Result]:
        """The results for all parts, in order."""
        if self.n_workers == 1 or len(parts) == 1:
            return map(work, parts)
        if self.pool is None:
            self.n_workers = max(1, min(self.n_workers, free_memory() // WORKER_BYTES))
            if self.n_workers == 1:
                return map(work, parts)
            self.pool = _single_threaded_pool(self.n_workers)
        return map(result_of, [self.pool.submit(work, part) for part in parts])
