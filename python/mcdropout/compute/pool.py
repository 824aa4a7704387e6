"""A pool of threads. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

Job = TypeVar("Job")

Result = TypeVar("Result")


class _Task(NamedTuple):
    future: Future[Any]
    context: Context  # that of the submitting thread, so that the task counts as a part of what this thread does
    work: Callable[..., Any]
    args: tuple[Any, ...]


class Pool:
    """Threads that share the tasks of one block.

    Python's `ThreadPoolExecutor` takes no tasks once the main thread has ended, although other threads go on. This pool
    does.
    """

    def __init__(self, n_threads: int) -> None:
        self.tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self.threads: list[Thread] = []
        try:
            for _ in range(n_threads):
                thread = Thread(target=self._work, daemon=True)  # whoever submits tasks waits for their results
                thread.start()
                self.threads.append(thread)
        except BaseException:  # the system has no room for so many threads
            self.shutdown()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def submit(self, work: Callable[..., Result], *args: Any) -> Future[Result]:
        """Call work(*args) in one of the threads."""
        task = _Task(Future(), copy_context(), work, args)
        self.tasks.put(task)
        return task.future

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """work(job) for all jobs, in order."""
        return (future.result() for future in [self.submit(work, job) for job in jobs])

    def shutdown(self, wait: bool = True) -> None:
        """Cancel the tasks that have not begun, and end the threads after their tasks of now."""
        while True:
            try:
                task = self.tasks.get_nowait()
            except Empty:
                break
            if task is not None:
                task.future.cancel()
        for _ in self.threads:
            self.tasks.put(None)
        if wait:
            for thread in self.threads:
                thread.join()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            if task.future.set_running_or_notify_cancel():
                try:
                    task.future.set_result(task.context.run(task.work, *task.args))
                except BaseException as error:  # raised where the result is read
                    task.future.set_exception(error)
            del task  # so that results are not kept until the next task
