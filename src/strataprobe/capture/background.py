"""Write in the background: one thread takes finished batches to disk while the next one runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

Job = TypeVar("Job")


class BackgroundWriter(Generic[Job]):
    """A thread that calls ``write(job)`` for each job, in order; a context manager.

    At most ``depth`` jobs wait: ``put`` blocks while there is no room. What ``write`` raises is raised, unchanged, by the
    next ``put`` or on leaving; nothing is written after it. On leaving by an exception, jobs not begun are dropped.
    The thread has ended then, unless the wait for it was interrupted twice: ``finished`` tells.
    """

    def __init__(self, write: Callable[[Job], None], depth: int = 2) -> None:
        self._write, self._depth = write, depth
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._no_more = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="background-writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    @property
    def finished(self) -> bool:
        """Whether no job is being written, nor will be: the thread has ended, or was never started."""
        return not self._thread.is_alive()

    def put(self, job: Job) -> None:
        """Leave a job to the thread, when there is room for it. Raises what an earlier job raised."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._error is not None)
            if self._error is not None:
                raise self._error
            self._waiting.append(job)
            self._changed.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(drop=kind is not None)
        except BaseException:  # interrupted while the last jobs were being written
            self._finish(drop=True)
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _finish(self, drop: bool) -> None:
        with self._changed:
            self._no_more = True
            if drop:
                self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._no_more)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._write(job)
            except BaseException as error:  # raised again where the jobs come from
                with self._changed:
                    self._error = error
                    self._waiting.clear()
                    self._changed.notify_all()
                return
            del job
