"""How values of ``audit.json`` are read and shown: nothing about them is taken for granted, nothing is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

# A list longer than this is folded; one longer than the other is cut.
N_UNFOLDED = 12
N_MOST = 300
_MAX_ROWS = 60
_STRIP_WIDTH = 160.0


def audit_rows(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain values as (name, value) pairs, nested names joined, long lists counted."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}, {key}" if prefix else str(key), inner)
        elif isinstance(value, list) and not all(isinstance(v, str | int | float) for v in value):
            rows.append((prefix, f"{len(value):,} entries"))
        elif isinstance(value, list):
            shown = ", ".join(_plain(v) for v in value[:10])
            rows.append((prefix, shown + (f" and {len(value) - 10:,} more" if len(value) > 10 else "") or "none"))
        else:
            rows.append((prefix, _plain(value)))

    walk("", {key: value for key, value in audit.items() if key not in ("findings", "format_version")})
    left_out = len(rows) - _MAX_ROWS
    shown = [(spoken(name), value) for name, value in rows[:_MAX_ROWS]]
    return shown + ([("further values", f"{left_out:,}, see data/audit.json")] if left_out > 0 else [])


def bars_of(found: Sequence[tuple[str, float, str]], most: float | None = None) -> dict[str, Any]:
    """Rows of (name, number as shown, width in percent of ``most``, the largest unless given)."""
    top = max((value for _, value, _ in found), default=0.0) if most is None else most
    rows = [
        (name, shown, f"{100 * min(max(value / top, 0), 1):.1f}" if top > 0 else "0") for name, value, shown in found
    ]
    return {"rows": rows[:N_MOST], "more": max(len(rows) - N_MOST, 0), "folded": len(rows) > N_UNFOLDED}


def strip_of(
    low: float | None, value: float | None, high: float | None, start: float, end: float, ticks: Iterable[float] = ()
) -> dict[str, Any] | None:
    """Places in a strip ``_STRIP_WIDTH`` wide, 4 of them kept free on both sides; None where there is no value."""
    if value is None or end <= start:
        return None

    def place(number: float) -> str:
        share = min(max((number - start) / (end - start), 0.0), 1.0)
        return f"{4 + share * (_STRIP_WIDTH - 8):.1f}"

    line = None if low is None or high is None else (place(low), place(high))
    return {"line": line, "dot": place(value), "ticks": [place(t) for t in ticks]}


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def list_of(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number_of(value: Any) -> float | None:
    """The value where it is a finite number, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return value if usable else None


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are finite numbers."""
    return {name: value for name, value in values.items() if number_of(value) is not None}


def whole(value: float | None) -> str:
    """A number without decimals; "" for None."""
    return "" if value is None else f"{value:,.0f}"


def tenth(value: float | None) -> str:
    """A number with one decimal; "" for None."""
    return "" if value is None else f"{value:.1f}"


def spoken(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
