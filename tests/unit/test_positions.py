"""Vectors at their positions: the mean to the last digits of float32, padding never touched, tokens in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from strataprobe.capture.positions import Positions, check_readouts
from strataprobe.capture.tokens import TokenRow

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [96, 90, 41, 7, 1]


def rows_of(lengths: list[int], seed: int = 0) -> list[TokenRow]:
    dice, rows = np.random.default_rng(seed), []
    for n in lengths:
        start = int(dice.integers(0, max(1, n // 4)))
        end = int(dice.integers(start + 1, n + 1))
        rows.append(TokenRow(np.arange(n), start, end, n - 1, False, int(dice.integers(0, n))))
    return rows


def exact_mean(rows: list[TokenRow], hidden: Tensor) -> Tensor:
    return torch.stack([h[r.own_start : r.own_end].double().mean(0) for r, h in zip(rows, hidden, strict=True)])


def error(found: Tensor, exact: Tensor) -> float:
    return float(((found.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


def both_ways(positions: Positions, hidden: Tensor) -> list[Tensor]:
    """The mean as a CPU takes it, and as other devices do."""
    at_once = positions._sums_at_once(hidden) / positions._n_own
    return [positions.read("mean", hidden), at_once]


@pytest.fixture
def coarse_products() -> Iterator[None]:
    """Matrix products with few digits, as users of GPUs switch them on."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outlier", [1, 1e4])
def test_the_mean_agrees_with_float64_to_a_millionth_of_its_norm(
    dtype: torch.dtype, outlier: float, coarse_products: None
) -> None:
    for seed, lengths in enumerate([LENGTHS, [512, 300, 17]]):
        rows = rows_of(lengths, seed)
        hidden = torch.randn(len(rows), max(lengths), 64, generator=torch.Generator().manual_seed(seed))
        hidden[torch.arange(len(rows)), [r.own_start for r in rows], ::7] *= outlier
        hidden = hidden.to(dtype)
        for mean in both_ways(Positions(rows, CPU), hidden):
            assert mean.dtype == torch.float32
            assert error(mean, exact_mean(rows, hidden)) < 1e-6


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 3e38])
def test_what_stands_outside_a_text_reaches_no_vector_even_when_it_is_not_finite(junk: float) -> None:
    rows = rows_of(LENGTHS)
    hidden = torch.randn(len(rows), 96, 8)
    spoiled = hidden.clone()
    for i, row in enumerate(rows):
        spoiled[i, row.own_end :] = junk
        spoiled[i, : row.own_start] = junk
    for mean in both_ways(Positions(rows, CPU), spoiled):
        assert error(mean, exact_mean(rows, hidden)) < 1e-6
    spoiled[0, rows[0].own_start, 0] = float("nan")
    for mean in both_ways(Positions(rows, CPU), spoiled):
        assert torch.isnan(mean).nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_token_of_the_assistant_is_read_at_its_own_position(dtype: torch.dtype) -> None:
    rows = rows_of(LENGTHS)
    hidden = torch.randn(len(rows), 96, 8).to(dtype)
    expected = torch.stack([h[r.last_assistant] for r, h in zip(rows, hidden, strict=True)]).to(torch.float32)
    assert torch.equal(Positions(rows, CPU).read("last-assistant", hidden), expected)


def test_a_row_without_an_answer_is_never_read_at_its_padding() -> None:
    rows = [*rows_of([9]), TokenRow(np.arange(5), 0, 5, 4, False)]
    with pytest.raises(AssertionError):
        Positions(rows, CPU).read("last-assistant", torch.randn(2, 9, 3))
    assert Positions(rows[:1], CPU).read("last-assistant", torch.randn(1, 9, 3)).shape == (1, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [96, 104])
def test_the_tokens_are_all_real_ones_row_after_row(dtype: torch.dtype, width: int) -> None:
    rows = rows_of(LENGTHS)
    hidden = torch.randn(len(rows), width, 4).to(dtype)
    tokens = Positions(rows, CPU).tokens(hidden)
    assert tokens.shape == (sum(LENGTHS), 4)
    expected = torch.cat([h[:n] for h, n in zip(hidden, LENGTHS, strict=True)]).to(torch.float32)
    assert torch.equal(tokens, expected)


def test_the_last_message_by_the_assistant_is_a_readout() -> None:
    assert check_readouts(["last-assistant", "last"]) == ("last-assistant", "last")
