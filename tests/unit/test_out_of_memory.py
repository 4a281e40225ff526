"""A batch that does not fit into memory is read in halves: the same vectors, said, and nothing left behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import strataprobe as sp
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.capture.hooks import hidden_of
from strataprobe.capture.reader import BatchResult, Reader, evaluation_mode
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.errors import ModelError, NonFiniteError
from strataprobe.modelerrors import is_out_of_memory
from strataprobe.models import LoadedModel

READOUTS = ("last", "mean", "last-text")
NAMES = [f"t{i}" for i in range(len(TEXTS))]
LAYERS = [0, 1, 2, 3]


def rows_of(model: LoadedModel, texts: list[str] = TEXTS) -> list[TokenRow]:
    return list(Tokenizer(model, PromptForm(suffix=SUFFIX if model.kind == "decoder" else "")).rows(texts))


def words_of(model: LoadedModel) -> list[int] | None:
    return [5, 9] if model.kind == "decoder" else None


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@contextmanager
def memory_for(
    model: LoadedModel,
    n_tokens: int,
    error: Callable[[], BaseException] = lambda: torch.OutOfMemoryError("CUDA out of memory."),
) -> Iterator[list[int]]:
    """The middle block fails above ``n_tokens`` in a batch; gives the tokens of each pass that came so far."""
    passes: list[int] = []

    def fail(_module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        passes.append(hidden.shape[0] * hidden.shape[1])
        if passes[-1] > n_tokens:
            raise error()

    handle = model.blocks[1].register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def same(ours: BatchResult, theirs: BatchResult) -> None:
    assert ours.vectors.keys() == theirs.vectors.keys()
    for key, vectors in theirs.vectors.items():
        assert relative(ours.vectors[key], vectors) < 1e-5, key
    assert ours.tokens.keys() == theirs.tokens.keys()
    for layer, vectors in theirs.tokens.items():
        assert relative(ours.tokens[layer], vectors) < 1e-5, layer
    if theirs.zero_shot is None:
        assert ours.zero_shot is None
    else:
        np.testing.assert_allclose(ours.zero_shot, theirs.zero_shot, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "bert"])
@pytest.mark.parametrize("share", [0.9, 0.2])
def test_a_batch_that_does_not_fit_gives_the_same_vectors_in_halves(
    family: str, share: float, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(family)
    rows, words = rows_of(model), words_of(model)
    whole = len(rows) * max(len(row.ids) for row in rows)
    before = n_hooks(model.model)
    with evaluation_mode(model):
        expected = Reader(model, LAYERS, READOUTS, words, keep_tokens=True).read(rows, NAMES)
        assert capsys.readouterr().err == ""
        reader = Reader(model, LAYERS, READOUTS, words, keep_tokens=True)
        with memory_for(model, int(share * whole)) as passes:
            got = reader.read(rows, NAMES)
    same(got, expected)
    assert (got.zero_shot is None) == (family == "bert")
    assert got.tokens[3].shape == (sum(len(row.ids) for row in rows), 32)
    n_failed = sum(n > int(share * whole) for n in passes)
    assert reader.n_splits == n_failed >= (1 if share > 0.5 else 2)
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == f"capture: out of memory with {whole:,} tokens in a batch; going on with {whole // 2:,}."
    assert len(notes) == n_failed
    assert n_hooks(model.model) == before


def test_later_batches_are_split_before_they_fail_and_those_that_fit_are_not(tiny: Any) -> None:
    model = tiny("llama")
    long, short = rows_of(model, ["We sat by the window for an hour. " * 3] * 5), rows_of(model, ["Yes."] * 5)
    reader = Reader(model, [2], ["last"])
    width = len(long[0].ids)
    with memory_for(model, 3 * width) as passes:
        reader.read(long, NAMES[:5])
        assert passes == [5 * width, 3 * width, 2 * width]
        assert reader.batch_limit == 3 * width
        del passes[:]
        reader.read(long, NAMES[:5])
        assert passes == [3 * width, 2 * width]
        del passes[:]
        reader.read(short, NAMES[:5])
        assert passes == [5 * len(short[0].ids)]
    assert reader.n_splits == 1


def test_a_limit_known_from_before_is_kept_to(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny("llama")
    rows = rows_of(model)
    reader = Reader(model, [2], ["last"])
    reader.batch_limit = 200
    with memory_for(model, 200) as passes:
        got = reader.read(rows, NAMES)
    assert len(passes) > 2
    assert all(n <= 200 for n in passes)
    assert (reader.n_splits, reader.batch_limit, capsys.readouterr().err) == (0, 200, "")
    same(got, Reader(model, [2], ["last"]).read(rows, NAMES))


def test_rows_in_any_order_come_back_in_it(tiny: Any) -> None:
    model = tiny("gemma3_text")
    rows = rows_of(model)
    order = [3, 0, 6, 1, 7, 2, 5, 4]
    expected = Reader(model, [3], ["last"]).read(rows, NAMES).vectors["last", 3]
    with memory_for(model, 100):
        got = Reader(model, [3], ["last"]).read([rows[i] for i in order], NAMES).vectors["last", 3]
    assert relative(got, expected[order]) < 1e-5


def test_what_a_failed_pass_held_is_let_go_before_the_halves_are_read(tiny: Any) -> None:
    model = tiny("llama")
    held: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        alive.append(sum(ref() is not None for ref in held))
        held.append(weakref.ref(hidden_of(output, output.shape[:2])))

    handle = model.blocks[0].register_forward_hook(keep)
    try:
        with memory_for(model, 150):
            Reader(model, [1, 2, 3], ["last"]).read(rows_of(model), NAMES)
    finally:
        handle.remove()
    assert len(alive) > 3
    assert set(alive) == {0}


def test_a_single_text_that_does_not_fit_is_an_error_that_names_it(tiny: Any) -> None:
    model = tiny("llama")
    before = n_hooks(model.model)
    rows = rows_of(model)
    longest, name = max((len(row.ids), name) for row, name in zip(rows, NAMES, strict=True))
    with (
        memory_for(model, longest - 1),
        pytest.raises(
            ModelError, match=rf"text '{name}' \({longest} tokens\) does not fit into the memory of cpu"
        ) as raised,
    ):
        Reader(model, LAYERS, READOUTS).read(rows, NAMES)
    assert "use --max-tokens, --dtype bfloat16 or a smaller model." in str(raised.value)
    assert n_hooks(model.model) == before
    assert not isinstance(raised.value.__context__, torch.OutOfMemoryError)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("odd"), KeyboardInterrupt("stop")])
def test_any_other_error_passes_through(error: BaseException, tiny: Any) -> None:
    model = tiny("llama")
    before = n_hooks(model.model)
    reader = Reader(model, LAYERS, READOUTS)
    with memory_for(model, 0, lambda: error) as passes, pytest.raises(type(error)) as raised:
        reader.read(rows_of(model), NAMES)
    assert raised.value is error
    assert (len(passes), reader.n_splits, reader.batch_limit) == (1, 0, None)
    assert n_hooks(model.model) == before


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1 MB, max allowed: 9.07 GB)."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: str(e)[:25])
def test_memory_that_runs_out_is_recognised_on_every_kind_of_device(error: Exception, tiny: Any) -> None:
    assert is_out_of_memory(error)
    with memory_for(tiny("llama"), 200, lambda: error):
        assert Reader(tiny("llama"), [2], ["last"]).read(rows_of(tiny("llama")), NAMES).vectors


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(28, "out of memory")]
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_memory_really_running_out_is_recognised() -> None:
    for allocate in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            allocate()
        assert is_out_of_memory(raised.value)


def test_capture_absorbs_it_and_says_so(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny("gemma3")
    expected = sp.capture(TEXTS, model.model, model.tokenizer, readout=READOUTS)
    assert "out of memory" not in capsys.readouterr().err
    with memory_for(model, 150):
        got = sp.capture(TEXTS, model.model, model.tokenizer, readout=READOUTS)
    assert "capture: out of memory with" in capsys.readouterr().err
    for layer in got.layers:
        for readout in READOUTS:
            assert relative(got.layer(layer, readout), expected.layer(layer, readout)) < 1e-5


def test_a_value_that_is_not_finite_is_named_rightly_in_a_half_and_in_a_token_that_no_readout_reads(tiny: Any) -> None:
    model = tiny("llama")
    rows = rows_of(model)

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output.clone()
        hidden[hidden.shape[0] - 1, 0] = float("inf")  # the first token, which is special
        return hidden

    handle = model.blocks[1].register_forward_hook(spoil)
    try:
        assert Reader(model, [2], READOUTS).read(rows, NAMES).vectors
        for limit, name in ((None, "t7"), (150, "t1")):
            reader = Reader(model, [1, 2], READOUTS, keep_tokens=True)
            reader.batch_limit = limit
            with pytest.raises(NonFiniteError, match=rf"layer 2 \(tokens\) of .* for text '{name}' in float32"):
                reader.read(rows, NAMES)
    finally:
        handle.remove()
