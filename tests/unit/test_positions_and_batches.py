"""Which position stands for a text, and how texts are put into batches."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from strataprobe.capture.batches import (
    CPU_BATCH_TOKENS,
    choose_batch_tokens,
    padded,
    plan_batches,
    token_size,
    tokens_that_fit,
)
from strataprobe.capture.positions import Positions, check_readouts
from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import OptionError

CPU = torch.device("cpu")


def row(n: int, own: tuple[int, int], last: int) -> TokenRow:
    return TokenRow(np.arange(n, dtype=np.int64) + 10, *own, last, False)


ROWS = [row(6, (1, 4), 5), row(3, (0, 3), 2), row(5, (1, 2), 3)]


def test_each_readout_is_read_at_its_own_position() -> None:
    hidden = torch.randn(3, 6, 4, dtype=torch.float64).to(torch.bfloat16)
    positions = Positions(ROWS, CPU)
    exact = hidden.to(torch.float32)
    assert torch.equal(positions.read("last", hidden), torch.stack([exact[0, 5], exact[1, 2], exact[2, 3]]))
    assert torch.equal(positions.read("last-text", hidden), torch.stack([exact[0, 3], exact[1, 2], exact[2, 1]]))
    means = torch.stack([exact[0, 1:4].mean(0), exact[1, :3].mean(0), exact[2, 1:2].mean(0)])
    torch.testing.assert_close(positions.read("mean", hidden), means)
    assert positions.read("mean", hidden).dtype == torch.float32
    assert positions.last(hidden).dtype == torch.bfloat16


def test_the_mean_of_large_bfloat16_values_is_taken_in_float32() -> None:
    hidden = torch.full((1, 300, 2), 1.0, dtype=torch.bfloat16)
    hidden[0, 0] = 65536.0
    mean = Positions([row(300, (0, 300), 299)], CPU).read("mean", hidden)
    assert mean[0, 0].item() == pytest.approx((65536 + 299) / 300, rel=1e-4)  # bfloat16 would give 218 or 220


def test_what_stands_beside_the_text_does_not_enter_the_mean() -> None:
    hidden = torch.randn(3, 6, 4)
    other = hidden.clone()
    other[0, [0, 4, 5]] += 1e6
    other[1, 3:] -= 1e6
    other[2, [0, 2, 3, 4, 5]] += 1e6
    positions = Positions(ROWS, CPU)
    torch.testing.assert_close(positions.read("mean", other), positions.read("mean", hidden))
    other[0, 1] += 1
    assert not torch.allclose(positions.read("mean", other), positions.read("mean", hidden))


@pytest.mark.parametrize("bad", [["first"], ["last", "last"], [], ["Last"], ["mean", ""]])
def test_unknown_doubled_or_no_readouts_are_refused(bad: list[str]) -> None:
    with pytest.raises(OptionError):
        check_readouts(bad)


def test_known_readouts_keep_their_order() -> None:
    assert check_readouts(["mean", "last-text", "last"]) == ("mean", "last-text", "last")


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = padded(ROWS, 0, CPU)
    assert ids.tolist() == [[10, 11, 12, 13, 14, 15], [10, 11, 12, 0, 0, 0], [10, 11, 12, 13, 14, 0]]
    assert mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)


class Sent(TorchFunctionMode):
    """Notes of each copy to another device: whether it was pinned, and whether nobody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[bool, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and (kwargs or {}).get("dtype") is None and not isinstance(args[1], torch.dtype):
            self.copies.append((args[0].is_pinned(), bool((kwargs or {}).get("non_blocking"))))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "unwaited"), [("cpu", False), ("meta", False), ("cuda", True)])
def test_only_pinned_memory_is_copied_without_waiting_and_only_to_cuda(device: str, unwaited: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    place = torch.device(device)
    with Sent() as sent:
        ids, _ = padded(ROWS, 0, place)
        found = Positions(ROWS, place)._real
    assert sent.copies == [(unwaited, unwaited)] * 3  # ids and mask; positions; places of the tokens
    assert ids.device.type == found[0].device.type == device


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert [b.tolist() for b in plan_batches([5, 100, 5, 5], 10)] == [[1], [0, 2], [3]]
    assert plan_batches([], 10) == []


def padding_of(lengths: np.ndarray, plan: list[np.ndarray]) -> float:
    """The share of the tokens of all batches that is padding."""
    return 1 - lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in plan)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [CPU_BATCH_TOKENS, 2048])
def test_of_many_texts_at_most_three_per_cent_is_padding_and_the_batches_are_not_tiny(seed: int, budget: int) -> None:
    lengths = np.random.default_rng(seed).integers(25, 121, 512)
    plan = plan_batches(lengths, budget)
    assert padding_of(lengths, plan) <= 0.03
    assert len(plan) <= 1.7 * lengths.sum() / budget
    assert min(len(rows) * lengths[rows].max() for rows in plan[:-1]) >= budget / 4


def test_a_batch_a_quarter_full_is_closed_before_its_padding_grows_and_an_emptier_one_is_not() -> None:
    assert [b.tolist() for b in plan_batches([10] * 6 + [9] * 4, 100)] == [[*range(8)], [8, 9]]
    assert [b.tolist() for b in plan_batches([10, 10, 5, 5, 5, 5], 100)] == [[0, 1, 2], [3, 4, 5]]
    assert [b.tolist() for b in plan_batches([10, 5, 2, 1], 10**6)] == [[0, 1, 2, 3]]


def test_batches_of_very_many_texts_are_planned_at_once() -> None:
    lengths = np.random.default_rng(0).integers(8, 121, 200_000)
    begin_s = time.perf_counter()
    plan = plan_batches(lengths, CPU_BATCH_TOKENS)
    assert time.perf_counter() - begin_s < 1
    assert padding_of(lengths, plan) < 0.001
    assert np.array_equal(np.sort(np.concatenate(plan)), np.arange(200_000))


def test_the_budget_on_a_gpu_is_the_power_of_two_that_fits_into_half_of_the_free_memory() -> None:
    assert tokens_that_fit(2 * 5000 * 1000, 1000) == 4096
    assert tokens_that_fit(2 * 4096 * 1000, 1000) == 4096
    assert tokens_that_fit(2 * 4096 * 1000 - 1, 1000) == 2048
    assert tokens_that_fit(10**12, 1000) == 32768
    assert tokens_that_fit(0, 1000) == 2048


def test_a_token_takes_more_of_a_gpu_in_wider_models_larger_numbers_and_where_more_of_it_is_kept() -> None:
    gemma = {"width": 2560, "inner": 10240, "heads_width": 2048, "element_bytes": 2, "n_vectors": 68}
    size = token_size(**gemma)
    assert 100_000 < size < 400_000
    for name, more in (
        ("width", 5120),
        ("inner", 20480),
        ("heads_width", 4096),
        ("element_bytes", 4),
        ("n_vectors", 200),
    ):
        assert token_size(**{**gemma, name: more}) > size
    assert token_size(**gemma, n_token_layers=34) == size + 34 * 2560 * 4
    assert tokens_that_fit(6 * 2**30, size) == 16384  # beside a model of 4B in the memory of a small GPU


def test_the_budget_on_a_cpu_is_one_fixed_number(tiny: Any) -> None:
    assert choose_batch_tokens("auto", tiny("llama")) == CPU_BATCH_TOKENS
    assert choose_batch_tokens("77", tiny("llama")) == choose_batch_tokens(77, tiny("llama")) == 77
    for bad in ("0", -1, "some", "1.5"):
        with pytest.raises(OptionError, match="neither 'auto' nor a positive whole number"):
            choose_batch_tokens(bad, tiny("llama"))
