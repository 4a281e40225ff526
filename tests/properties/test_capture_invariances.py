"""A text's vectors are its own: batch size, order, neighbours, padding and the other layers asked for do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strataprobe as sp
from builders import FAMILIES, tiny_tokenizer
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.capture.batches import padded, plan_batches
from strataprobe.capture.memory import read_vectors
from strataprobe.capture.tokens import PromptForm, Tokenizer

# of the norm of the vector; float32 on CPU
TOLERANCE = 1e-5
ALL = ["last", "mean", "last-text"]
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(lambda t: t.strip())


def captured(model: Any, texts: list[str], layers: Any = (0, 1, 2, 3), **more: Any) -> sp.Activations:
    suffix = SUFFIX if model.kind == "decoder" else ""
    return sp.capture(texts, model.model, model.tokenizer, layers=layers, readout=ALL, suffix=suffix, **more)


def same(ours: sp.Activations, theirs: sp.Activations, mine: list[int], yours: list[int]) -> None:
    for layer in ours.layers:
        for readout in ALL:
            got, expected = ours.layer(layer, readout)[mine], theirs.layer(layer, readout)[yours]
            assert relative(got, expected) < TOLERANCE, (layer, readout)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(order=st.permutations(range(len(TEXTS))), batch_tokens=st.sampled_from([1, 90, 400, 10**6]))
def test_vectors_do_not_depend_on_order_batch_size_or_padding(
    family: str, tiny: Any, order: list[int], batch_tokens: int
) -> None:
    model = tiny(family)
    reference = captured(model, TEXTS, batch_tokens=1)
    shuffled = captured(model, [TEXTS[i] for i in order], batch_tokens=batch_tokens)
    same(shuffled, reference, list(range(len(order))), list(order))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(text=words, neighbours=st.lists(words, max_size=5))
def test_vectors_do_not_depend_on_the_texts_beside_it(family: str, tiny: Any, text: str, neighbours: list[str]) -> None:
    model = tiny(family)
    together = captured(model, [*neighbours, text], batch_tokens=10**6)
    same(together, captured(model, [text]), [len(neighbours)], [0])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(layers=st.lists(st.integers(0, 3), min_size=1, unique=True))
def test_vectors_do_not_depend_on_which_other_layers_are_asked_for_or_in_what_order(
    family: str, tiny: Any, layers: list[int]
) -> None:
    model = tiny(family)
    whole, some = captured(model, TEXTS), captured(model, TEXTS, layers=layers)
    assert some.layers == sorted(layers)
    for layer in layers:
        for readout in ALL:
            np.testing.assert_array_equal(some.layer(layer, readout), whole.layer(layer, readout))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_padding_holds_does_not_matter(family: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    rows = Tokenizer(model, PromptForm()).rows(TEXTS)
    reference = read_vectors(model, rows, [0, 1, 3], ALL, 10**6)
    seen = []

    def other_padding(batch: Any, _pad: int, device: Any) -> Any:
        ids, mask = padded(batch, 77, device)
        seen.append(int((ids[mask == 0] == 77).sum()))
        return ids, mask

    monkeypatch.setattr("strataprobe.capture.reader.padded", other_padding)
    again = read_vectors(model, rows, [0, 1, 3], ALL, 10**6)
    assert seen[0] > 100
    for key, array in reference.items():
        assert relative(again[key], array) < TOLERANCE, key


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<pad>", None])
def test_the_tokenizers_own_padding_does_not_matter(side: str, pad: str | None, tiny: Any) -> None:
    model = tiny("gemma3_text")
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side, tokenizer.pad_token = side, pad
    ours = sp.capture(TEXTS, model.model, tokenizer, readout=ALL, suffix=SUFFIX, batch_tokens=10**6)
    same(ours, captured(model, TEXTS, layers=(1, 2, 3)), list(range(len(TEXTS))), list(range(len(TEXTS))))


def test_different_texts_have_different_vectors(tiny: Any) -> None:
    acts = captured(tiny("llama"), ["It rained.", "It rained!"])
    assert relative(acts.layer(3, "last-text")[:1], acts.layer(3, "last-text")[1:]) > 1e-2


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), budget=st.integers(1, 1000))
def test_a_batch_plan_holds_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    assert sorted(i for rows in plan for i in rows) == list(range(len(lengths)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= budget
    firsts = [max(lengths[i] for i in rows) for rows in plan]
    assert firsts == sorted(firsts, reverse=True)
    assert [r.tolist() for r in plan] == [r.tolist() for r in plan_batches(lengths, budget)]


@settings(max_examples=40)
@given(text=words, suffix=st.sampled_from(["", SUFFIX, " end", "\n"]), prefix=st.sampled_from(["", "Text:\n", "a "]))
def test_token_ids_are_exactly_those_of_the_whole_string(tiny: Any, text: str, suffix: str, prefix: str) -> None:
    model = tiny("gemma2")
    encoded = model.tokenizer(prefix + text + suffix, return_offsets_mapping=True)
    starts = [a for a, _ in encoded["offset_mapping"]]
    inside = [i for i in range(1, len(starts)) if len(prefix) <= starts[i] < len(prefix) + len(text)]
    tokenizer = Tokenizer(model, PromptForm(prefix, suffix))
    if not inside:
        with pytest.raises(sp.StrataprobeError, match="holds no token of its own"):
            tokenizer.rows([text])
        return
    row = tokenizer.rows([text])[0]
    assert row.ids.tolist() == encoded["input_ids"]
    assert inside == list(range(row.own_start, row.own_end))
    assert row.last == len(row.ids) - 1
