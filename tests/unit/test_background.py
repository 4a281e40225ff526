"""Writing in the background: order, errors, bounds, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from strataprobe.capture.background import BackgroundWriter

WAIT_S = 5.0


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_jobs_are_written_in_order_by_one_other_thread() -> None:
    written: list[int] = []
    threads: set[int] = set()

    def write(job: int) -> None:
        threads.add(threading.get_ident())
        time.sleep(0.001 * (job % 3))
        written.append(job)

    with BackgroundWriter(write) as writer:
        for job in range(40):
            writer.put(job)
    assert written == list(range(40))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_with_no_job_nothing_is_written() -> None:
    written: list[int] = []
    with BackgroundWriter(written.append):
        pass
    assert written == []


def test_an_error_is_raised_unchanged_at_the_next_put_and_nothing_is_written_after_it() -> None:
    error, written = OSError(28, "No space left on device"), []
    failed = threading.Event()

    def write(job: int) -> None:
        if job == 1:
            failed.set()
            raise error
        written.append(job)

    def put_all() -> None:
        with BackgroundWriter(write, depth=3) as writer:
            for job in (0, 1):
                writer.put(job)
            failed.wait(WAIT_S)
            until(lambda: writer._error)
            writer.put(2)
            pytest.fail("the error did not come")

    with pytest.raises(OSError, match="No space left") as raised:
        put_all()
    assert raised.value is error
    assert written == [0]


def test_an_error_in_the_last_job_is_raised_unchanged_at_the_end() -> None:
    error = ValueError("last")

    def write(job: int) -> None:
        time.sleep(0.01)
        raise error

    with pytest.raises(ValueError, match="last") as raised, BackgroundWriter(write) as writer:
        writer.put(1)
    assert raised.value is error


def test_an_error_wakes_a_put_that_waits_for_room() -> None:
    full = threading.Event()

    def write(job: int) -> None:
        full.wait(WAIT_S)
        raise ValueError("while put waits")

    timer = threading.Timer(0.05, full.set)

    def put_all() -> None:
        with BackgroundWriter(write, depth=1) as writer:
            writer.put(1)
            until(lambda: not writer._waiting)
            writer.put(2)
            timer.start()
            writer.put(3)

    with pytest.raises(ValueError, match="while put waits"):
        put_all()
    timer.join()


def test_put_blocks_while_a_slow_writer_has_as_many_jobs_waiting_as_it_may() -> None:
    go, begun, entered, most = threading.Semaphore(0), [], [], 0

    def write(job: int) -> None:
        begun.append(job)
        go.acquire()

    with BackgroundWriter(write, depth=2) as writer:

        def put_all() -> None:
            for job in range(8):
                writer.put(job)
                entered.append(job)

        feeder = threading.Thread(target=put_all)
        feeder.start()
        for n_done in range(8):
            until(lambda n=n_done: len(entered) == min(n + 3, 8))
            time.sleep(0.005)
            most = max(most, len(entered) - n_done)
            go.release()
        feeder.join()
    assert begun == list(range(8))
    assert most == 3  # one being written, two waiting


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_body_drops_the_jobs_not_begun_and_is_the_one_raised(kind: type[BaseException]) -> None:
    begun, written = threading.Event(), []

    def write(job: int) -> None:
        begun.set()
        time.sleep(0.05)
        written.append(job)

    def body() -> None:
        with BackgroundWriter(write, depth=4) as writer:
            for job in range(4):
                writer.put(job)
            begun.wait(WAIT_S)
            raise kind("from the body")

    with pytest.raises(kind, match="from the body"):
        body()
    assert written == [0]


def test_the_bodys_exception_wins_over_one_in_the_thread() -> None:
    def write(job: int) -> None:
        raise OSError("thread")

    def body() -> None:
        with BackgroundWriter(write) as writer:
            writer.put(1)
            until(lambda: writer._error)
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        body()


def test_an_interruption_while_the_last_jobs_are_written_drops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, written = threading.Event(), []

    def write(job: int) -> None:
        begun.set()
        time.sleep(0.05)
        written.append(job)

    join = threading.Thread.join

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        begun.wait(WAIT_S)
        raise KeyboardInterrupt

    def body() -> None:
        with BackgroundWriter(write, depth=4) as writer:
            for job in range(4):
                writer.put(job)
            monkeypatch.setattr(threading.Thread, "join", interrupted)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert written == [0]


def test_a_thread_left_running_by_a_second_interruption_is_not_finished_until_its_job_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, begun, written = threading.Event(), threading.Event(), []

    def write(job: int) -> None:
        begun.set()
        go.wait(WAIT_S)
        written.append(job)

    join = threading.Thread.join

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        begun.wait(WAIT_S)
        raise KeyboardInterrupt

    writer = BackgroundWriter(write, depth=4)
    assert writer.finished

    def body() -> None:
        with writer:
            for job in range(4):
                writer.put(job)
            monkeypatch.setattr(threading.Thread, "join", interrupted)

    with pytest.raises(KeyboardInterrupt):
        body()
    monkeypatch.setattr(threading.Thread, "join", join)
    assert not writer.finished
    go.set()
    until(lambda: writer.finished)
    assert written == [0]
