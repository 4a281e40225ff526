"""How far vectors differ from a plain hook's, measured for every family and dtype, and docs/tolerances.md.

To write the table anew: STRATAPROBE_WRITE_DOCS=1 pytest tests/reference/test_tolerances.py
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import plain_hook
import strataprobe as sp
from builders import FAMILIES, save_model
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.capture.check import TOLERANCE
from strataprobe.models import LoadedModel, load_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tolerances.md"
HEADER = "| family | dtype | measured | allowed | from float32 |"
RULE = "| --- | --- | --- | --- | --- |"
READOUTS = ["last", "mean", "last-text"]
SEVERAL = list(range(len(TEXTS)))
# order of the texts and tokens a batch: all in one, each alone in reverse, and two mixtures
ALL = ((SEVERAL, 10**6), (SEVERAL[::-1], 1), ([3, 0, 7, 5, 1, 6, 2, 4], 90), ([4, 2, 6, 1, 5, 7, 0, 3], 400))


class Case(NamedTuple):
    """A model to measure, and in which batches."""

    family: str
    n_layers: int = 3
    width: int = 32
    batches: tuple[tuple[list[int], int], ...] = ALL

    @property
    def suffix(self) -> str:
        return "" if self.family == "bert" else SUFFIX


CASES = {
    **{family: Case(family) for family in (*FAMILIES, "qwen3")},
    "gemma3_text, 34 layers": Case("gemma3_text", 34, 16, (([1, 4, 0], 10**6), ([0, 4, 1], 60))),
}


class Figures(NamedTuple):
    """The largest differences relative to the norm: from plain hooks on the same model, and on the float32 one."""

    measured: float
    from_float32: float


Figure = Callable[[str, str], Figures]


def plain(case: Case, loaded: LoadedModel) -> dict[tuple[str, int], np.ndarray]:
    """Vectors (n, D) of the texts by (readout, layer), read without strataprobe; zeros for texts of no batch."""
    used = {i for order, _ in case.batches for i in order}
    rows = {i: plain_hook.read(loaded.model, loaded.tokenizer, case.family, TEXTS[i], suffix=case.suffix) for i in used}
    found = {}
    for layer in range(case.n_layers + 1):
        for readout in READOUTS if layer else ["mean"]:
            found[readout, layer] = np.zeros((len(TEXTS), case.width))
            for i, row in rows.items():
                found[readout, layer][i] = row.vector(readout, layer)
    return found


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    """``figures(case, dtype)``: over all layers, readouts and batches, measured once."""

    @cache
    def folder_of(name: str) -> Path:
        case = CASES[name]
        return save_model(
            tmp_path_factory.mktemp("models") / "m", case.family, n_layers=case.n_layers, width=case.width
        )

    @cache
    def hooked(name: str, dtype: str) -> tuple[LoadedModel, dict[tuple[str, int], np.ndarray]]:
        loaded = load_model(folder_of(name), dtype=dtype)
        assert loaded.dtype == dtype
        return loaded, plain(CASES[name], loaded)

    @cache
    def measure(name: str, dtype: str) -> Figures:
        case, (loaded, own), (_, whole) = CASES[name], hooked(name, dtype), hooked(name, "float32")
        measured = from_float32 = 0.0
        for order, batch_tokens in case.batches:
            acts = sp.capture(
                [TEXTS[i] for i in order],
                loaded,
                layers=range(case.n_layers + 1),
                readout=READOUTS,
                suffix=case.suffix,
                batch_tokens=batch_tokens,
            )
            for readout, layer in own:
                got = acts.layer(layer, readout)
                measured = max(measured, relative(got, own[readout, layer][order]))
                from_float32 = max(from_float32, relative(got, whole[readout, layer][order]))
        return Figures(measured, from_float32)

    return measure


def rounded_up(value: float) -> str:
    """One significant digit, never less than the value."""
    exponent = math.floor(math.log10(value))
    return f"{float(f'{math.ceil(value / 10**exponent)}e{exponent}'):.0e}"


def table_of_the_page() -> dict[tuple[str, str], list[str]]:
    """Cells (measured, allowed, from float32) by family and dtype."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert lines[:2] == [HEADER, RULE]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(family, dtype): rest for family, dtype, *rest in cells}


def write_table(figures: Figure) -> None:
    rows = [HEADER, RULE]
    for name in CASES:
        for dtype, allowed in TOLERANCE.items():
            found = figures(name, dtype)
            far = "" if dtype == "float32" else rounded_up(found.from_float32)
            rows.append(f"| {name} | {dtype} | {rounded_up(found.measured)} | {allowed:.0e} | {far} |")
    before, _, after = PAGE.read_text("utf-8").partition(HEADER)
    rest = after.splitlines()
    while rest and (not rest[0] or rest[0].startswith("|")):
        rest.pop(0)
    PAGE.write_text(before + "\n".join([*rows, "", *rest]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_no_layer_readout_batch_order_or_padding_moves_a_vector_by_more_than_is_allowed(
    name: str, dtype: str, figures: Figure
) -> None:
    assert 0 < figures(name, dtype).measured <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", CASES)
def test_the_mixed_mode_is_nearer_to_float32_than_bfloat16_is(name: str, figures: Figure) -> None:
    mixed, bfloat16 = (figures(name, dtype).from_float32 for dtype in ("mixed", "bfloat16"))
    assert 1e-5 < mixed < bfloat16 / 2
    assert mixed < 1e-2


def test_the_page_of_tolerances_holds_every_family_and_dtype_and_what_is_allowed(figures: Figure) -> None:
    if os.environ.get("STRATAPROBE_WRITE_DOCS"):
        write_table(figures)
    page = table_of_the_page()
    assert list(page) == [(name, dtype) for name in CASES for dtype in TOLERANCE]
    for (name, dtype), (measured, allowed, _) in page.items():
        assert float(allowed) == TOLERANCE[dtype]
        assert float(measured) <= float(allowed)
        assert figures(name, dtype).measured <= float(allowed)


def test_figures_of_the_page_are_rounded_up_to_one_digit() -> None:
    assert [rounded_up(x) for x in (1e-5, 1.01e-5, 9.4e-4, 3e-8, 2.5)] == ["1e-05", "2e-05", "1e-03", "3e-08", "3e+00"]
