"""Layers side by side: each in a thread of its own with one torch and BLAS thread, where layers are small.

On matrices of a thousand rows a second thread on the same matrix gains little; on another layer it gains all of it. How
many threads a layer gets depends on its size and the machine alone, never on how much is left to do, so an interrupted
stage ends with the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Job = TypeVar("Job")
Result = TypeVar("Result")

# A layer of more entries gets all cores, and is the only one in memory.
ALONE_ENTRIES = 16_000_000


def workers_for(n_entries: int) -> int:
    """How many layers of ``n_entries`` numbers are worked on at a time: the cores, or one where layers are large."""
    return 1 if n_entries > ALONE_ENTRIES else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job], n_workers: int) -> Iterator[tuple[Job, Result]]:
    """(job, ``work(job)``) of every job as it is done, at most ``n_workers`` at a time.

    With one worker the jobs run here, with all cores. The first job that raises ends it: those that have begun are
    finished, their results given, and the error is raised.
    """
    if n_workers <= 1:
        for job in jobs:
            yield job, work(job)
        return
    with _one_thread_each(), ThreadPoolExecutor(n_workers) as pool:
        waiting, running = list(reversed(jobs)), dict[Future[Result], Job]()
        failed: BaseException | None = None
        try:
            while running or (waiting and failed is None):
                while waiting and failed is None and len(running) < n_workers:
                    job = waiting.pop()
                    running[pool.submit(work, job)] = job
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job, error = running.pop(future), future.exception()
                    if error is None:
                        yield job, future.result()
                    failed = failed or error
        finally:
            waiting.clear()
        if failed is not None:
            raise failed


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
