"""Seconds spent inside named functions while a block runs, on the thread that opened the block and on others."""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any


class Timers:
    """``points`` maps a label to the functions it counts, each "module:Class.name"; one label inside another counts twice.

    ``here_s`` holds the seconds on the thread that opened the block, ``beside_s`` those on other threads. A name that is
    not there is an error: a figure that silently became zero would mislead.
    """

    def __init__(self, points: Mapping[str, tuple[str, ...]]) -> None:
        self.here_s, self.beside_s = dict.fromkeys(points, 0.0), dict.fromkeys(points, 0.0)
        self._points, self._undo = points, list[tuple[Any, str, Any]]()
        self._thread = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Timers:
        self._thread = threading.get_ident()
        for label, paths in self._points.items():
            for path in paths:
                module, _, name = path.partition(":")
                *owners, last = name.split(".")
                owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
                original = getattr(owner, last)
                self._undo.append((owner, last, original))
                setattr(owner, last, self._timed(label, original))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for owner, name, original in reversed(self._undo):
            setattr(owner, name, original)

    def _timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.perf_counter() - started_s
                spent = self.here_s if threading.get_ident() == self._thread else self.beside_s
                with self._lock:
                    spent[label] += took_s

        return wrapper
