"""One writer a stage folder: a lock that other processes see, given up when this one ends however it ends."""

from __future__ import annotations

import atexit
import errno
import os
from contextlib import suppress
from pathlib import Path

from strataprobe.errors import StageError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_MOST_TRIES = 100
# one open file a lock: closing any file of a path gives up all of the process's locks on it
_locks: dict[Path, int] = {}


def take_lock(final: Path) -> None:
    """Keep other processes from writing the stage folder ``final`` until ``release_lock`` or the end of this process.

    Raises StageError when another process holds it. Where the file system has no locks, nothing is locked.
    """
    path = _lock_path(final)
    if fcntl is None or path in _locks:
        return
    for _ in range(_MOST_TRIES):
        descriptor = _open_locked(path, final)
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # the one before removed it between opening and locking: nobody else sees this lock
    else:  # a file system that gives one file several numbers
        descriptor = _open_locked(path, final)
    _locks[path] = descriptor


def release_lock(final: Path) -> None:
    """Let other processes write ``final`` again, and remove the lock's file."""
    _release(_lock_path(final))


def remove_stale_lock(final: Path) -> None:
    """Remove the lock's file where a process that was killed left it; one that is held by another process stays."""
    if _lock_path(final).exists():
        with suppress(StageError):
            take_lock(final)
            release_lock(final)


def _open_locked(path: Path, final: Path) -> int:
    """A descriptor of the lock's file, locked where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise StageError(f"{path} could not be made: {error.strerror or error}; choose another --out.") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            raise StageError(
                f"another strataprobe is writing {final}: wait for it, or choose another --out."
            ) from error
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.lock").absolute()


def _release(path: Path) -> None:
    descriptor = _locks.pop(path, None)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@atexit.register
def _release_all() -> None:
    for path in list(_locks):
        with suppress(OSError):
            _release(path)
