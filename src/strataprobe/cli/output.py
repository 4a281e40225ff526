"""What commands print on stdout: JSON documents, and tables that fit a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document; numbers are not rounded."""
    try:
        print(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False), flush=indent is None)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns after the first are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_wrapped(text: str) -> None:
    """A sentence, wrapped at the terminal's width."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(text)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval for a table."""
    return "" if low is None or high is None else f"{low:.3f}-{high:.3f}"
