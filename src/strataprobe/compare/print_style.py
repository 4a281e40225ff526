"""The look of the figures for a paper, and their PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # A class or a model may have a $ in its name.
    "text.parse_math": False,
}
_DPI = 300
_MOST_PIXELS = 30_000


def png_bytes(draw: Callable[[], Figure]) -> bytes:
    """The figure that ``draw`` makes as PNG bytes, 300 dpi, whatever the user's settings: the same one, the same bytes."""
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault) | {"backend": mpl.rcParams["backend"]}
    with mpl.rc_context(defaults | _STYLE):
        figure, buffer = draw(), io.BytesIO()
        dpi = min(_DPI, _MOST_PIXELS / figure.get_figheight())
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
