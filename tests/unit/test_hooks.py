"""Hooks on blocks: tensor or tuple, always taken off, and nothing computed above the highest layer."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

import strataprobe as sp
from builders import FAMILIES, tiny_model
from plain_hook import SUFFIX, TEXTS
from strataprobe.capture.hooks import hidden_of, run_layers
from strataprobe.capture.reader import evaluation_mode
from strataprobe.errors import ModelError, NonFiniteError
from strataprobe.models import wrap_model


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_block_may_give_a_tensor_or_a_tuple() -> None:
    stream = torch.randn(2, 3, 4)
    assert hidden_of(stream, (2, 3)) is stream
    assert hidden_of((stream, None), (2, 3)) is stream


@pytest.mark.parametrize(
    "output", [{"hidden": 1}, torch.randn(3, 4), (None,), [torch.randn(2, 3, 4)], torch.randn(3, 2, 4)]
)
def test_a_block_that_gives_anything_else_is_an_error(output: Any) -> None:
    with pytest.raises(ModelError, match=r"where a residual stream of shape \(2, 3, D\) was expected"):
        hidden_of(output, (2, 3))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_vectors_are_the_same_whether_blocks_give_tensors_or_tuples(family: str, tiny: Any) -> None:
    model = tiny(family)
    expected = sp.capture(TEXTS, model.model, model.tokenizer, layers=range(4), readout="last")
    other, tokenizer = tiny_model(family)
    loaded = wrap_model(other, tokenizer)
    seen = []

    def swap(_module: Any, _args: Any, output: Any) -> Any:
        seen.append(output)
        return (output, None) if isinstance(output, torch.Tensor) else output[0]

    def unwrap(_module: Any, args: Any, kwargs: Any) -> Any:
        args = tuple(a[0] if isinstance(a, tuple) else a for a in args)
        return args, {k: v[0] if k == "hidden_states" and isinstance(v, tuple) else v for k, v in kwargs.items()}

    for block in loaded.blocks:
        block.register_forward_hook(swap)
        block.register_forward_pre_hook(unwrap, with_kwargs=True)
    swapped = sp.capture(TEXTS, other, tokenizer, layers=range(4), readout="last")
    assert seen
    for layer in range(4):
        assert torch.equal(torch.from_numpy(swapped.layer(layer)), torch.from_numpy(expected.layer(layer)))


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_come_off_afterwards(family: str, tiny: Any) -> None:
    model = tiny(family)
    before = hooks_on(model.model)
    sp.capture(TEXTS, model.model, model.tokenizer, layers=range(4))
    assert hooks_on(model.model) == before


def test_hooks_come_off_after_an_exception_in_the_receiver_and_in_a_block(tiny: Any) -> None:
    model = tiny("llama")
    before = hooks_on(model.model)
    ids = torch.ones(1, 4, dtype=torch.int64)
    seen: list[int] = []

    def stop(layer: int, _hidden: Any) -> None:
        seen.append(hooks_on(model.model))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_layers(model, ids, None, [0, 1, 2], stop)
    assert seen[0] > before
    assert hooks_on(model.model) == before

    def fail(*_: Any) -> None:
        raise MemoryError("block")

    handle = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        run_layers(model, ids, None, [1, 3], lambda *_: None)
    handle.remove()
    assert hooks_on(model.model) == before


def test_the_pass_ends_with_no_error_of_its_own_after_the_highest_layer(tiny: Any) -> None:
    layers: list[int] = []
    run_layers(tiny("llama"), torch.ones(1, 4, dtype=torch.int64), None, [3, 0, 2], lambda k, _: layers.append(k))
    assert layers == [0, 2, 3]


@pytest.mark.parametrize(("order", "ran"), [([0, 2], "[1, 3]"), ([0, 1, 1, 2], "[1, 2, 2, 3]"), ([0, 1], "[1, 2]")])
def test_a_model_that_leaves_out_a_block_or_runs_it_twice_is_refused(order: list[int], ran: str) -> None:
    model, tokenizer = tiny_model("llama")
    loaded = wrap_model(model, tokenizer)
    before = hooks_on(model)
    model.model.layers = nn.ModuleList([loaded.blocks[i] for i in order])
    model.config.num_hidden_layers = len(order)
    with pytest.raises(ModelError, match=re.escape(f"layers {ran} of this model ran where [1, 2, 3] were asked for")):
        run_layers(loaded, torch.ones(1, 4, dtype=torch.int64), None, [1, 2, 3], lambda *_: None)
    assert hooks_on(model) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("highest", [0, 1, 2, 3])
def test_nothing_above_the_highest_layer_is_computed(family: str, highest: int, tiny: Any) -> None:
    model = tiny(family)
    calls = [0] * 3
    norms: list[int] = []
    handles = []
    for i, block in enumerate(model.blocks):
        # the block itself is entered and left; what counts is how far the pass came
        def count(_m: Any, _a: Any, i: int = i) -> None:
            calls[i] += 1

        first = next(m for m in block.modules() if isinstance(m, nn.Linear) or m.__class__.__name__ == "Conv1D")
        handles.append(first.register_forward_pre_hook(count))
    if model.final_norm is not None:
        handles.append(model.final_norm.register_forward_pre_hook(lambda *_: norms.append(1)))
    head = model.head
    if head is not None:
        handles.append(head.register_forward_pre_hook(lambda *_: norms.append(1)))
    sp.capture(["It rained."], model.model, model.tokenizer, layers=[highest], suffix=SUFFIX)
    assert calls == [1] * highest + [0] * (3 - highest)
    assert norms == []
    model.model(input_ids=torch.ones(1, 4, dtype=torch.int64))
    assert calls == [2] * highest + [1] * (3 - highest)
    assert len(norms) == (2 if head is not None else 0)
    for handle in handles:
        handle.remove()


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: m.training for name, m in model.named_modules()}


@pytest.mark.parametrize("family", ["gpt2", "bert", "gemma3"])
def test_training_mode_is_restored_module_by_module_and_dropout_is_off_meanwhile(family: str) -> None:
    model, tokenizer = tiny_model(family)
    expected = sp.capture(TEXTS, model, tokenizer)
    model.train()
    wrap_model(model, tokenizer).blocks[1].eval()
    before = modes(model)
    assert len(set(before.values())) == 2
    got = sp.capture(TEXTS, model, tokenizer)
    assert modes(model) == before
    for layer in expected.layers:
        assert torch.equal(torch.from_numpy(got.layer(layer)), torch.from_numpy(expected.layer(layer)))
    loaded = wrap_model(model, tokenizer)
    with suppress(KeyboardInterrupt), evaluation_mode(loaded):
        assert not any(modes(model).values())
        raise KeyboardInterrupt
    assert modes(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_their_gradients_are_untouched(family: str, tiny: Any) -> None:
    model = tiny(family).model
    before = {name: p.clone() for name, p in model.state_dict().items()}
    sp.capture(TEXTS, model, tiny(family).tokenizer, layers=range(4))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("family", "value"), [("llama", "inf"), ("gemma3", "nan"), ("bert", "inf")])
def test_a_value_that_is_not_finite_is_an_error_that_names_layer_and_text(family: str, value: str) -> None:
    model, tokenizer = tiny_model(family)
    assert sp.capture(["It rained.", "zz"], model, tokenizer).n_texts == 2
    token = tokenizer("z", add_special_tokens=False)["input_ids"][0]

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        hidden = hidden_of(output, tuple(_args[0].shape[:2])).clone()
        hidden[ids[0] == token] = float(value)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    ids: list[torch.Tensor] = []
    loaded = wrap_model(model, tokenizer)
    model.get_input_embeddings().register_forward_pre_hook(lambda _m, args: ids.__setitem__(slice(None), [args[0]]))
    loaded.blocks[1].register_forward_hook(spoil)
    with pytest.raises(ModelError, match=r"layer 2 \(mean\) of .* is not finite for text 1 in float32"):
        sp.capture(["It rained.", "zz"], model, tokenizer, readout="mean")
    assert sp.capture(["It rained.", "zz"], model, tokenizer, readout="mean", layers=1).n_texts == 2
    assert sp.capture(["It rained."], model, tokenizer, readout="mean").n_texts == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_helps_against_values_that_are_not_finite_depends_on_the_dtype(dtype: torch.dtype) -> None:
    model, tokenizer = tiny_model("llama")
    model.to(dtype)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    name = str(dtype).removeprefix("torch.")
    advice = "its weights are broken, run 'strataprobe check'" if name == "float32" else "use --dtype float32"
    with pytest.raises(NonFiniteError, match=rf"layer 2 \(last\) of .* for text 0 in {name}: {advice}\.$"):
        sp.capture(["It rained."], model, tokenizer)
    assert sp.capture(["It rained."], model, tokenizer, layers=1).n_texts == 1


def test_finite_values_whose_sum_is_not_are_no_error() -> None:
    model, tokenizer = tiny_model("llama")
    model.model.layers[2].register_forward_hook(lambda _m, _a, out: torch.full_like(out, 3e38))
    assert sp.capture(["It rained.", "zz"], model, tokenizer, readout="last").layer(3).min() > 2.9e38


def test_a_weight_that_overflows_is_an_error_and_never_a_row() -> None:
    model, tokenizer = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(1e38).mul_(1e3)
    with pytest.raises(ModelError, match=r"layer 3 .*text 0"):
        sp.capture(["It rained."], model, tokenizer)


def test_values_beyond_the_largest_half_precision_number_are_kept() -> None:
    model, tokenizer = tiny_model("gemma3_text")
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e7)
    vectors = sp.capture(["It rained."], model, tokenizer, readout="last").layer(3)
    assert abs(vectors).max() > 65504


def test_no_key_value_cache_is_kept_while_reading(tiny: Any) -> None:
    model = tiny("llama")
    seen: list[Any] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _m, _a, kw: seen.append(kw), with_kwargs=True)
    sp.capture(["It rained."], model.model, model.tokenizer)
    handle.remove()
    assert seen
    assert seen[0].get("past_key_values") is None
    assert not seen[0].get("use_cache")
