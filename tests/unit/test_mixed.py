"""The mixed mode: float16 weights and products, everything else float32, as near to float32 as float16 weights allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import strataprobe as sp
import strataprobe.mixed as mixed_module
from builders import FAMILIES, save_model, tiny_model
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.devices import choose_dtype
from strataprobe.errors import ModelError, NonFiniteError
from strataprobe.mixed import _convert
from strataprobe.models import LoadedModel, load_model, say_choices, wrap_model

LARGEST_FLOAT16 = 65504.0
# of the norm; weights rounded to 11 bits, in three blocks of width 32
TINY = 2e-3
# what must hold for a model whose numbers float16 cannot hold
ONE_PER_CENT = 1e-2


def vectors(model: Any, tokenizer: Any = None, suffix: str = SUFFIX) -> sp.Activations:
    return sp.capture(
        TEXTS, model, tokenizer, layers=[0, *range(1, n_layers(model) + 1)], readout=["last", "mean"], suffix=suffix
    )


def n_layers(model: Any) -> int:
    return model.n_layers if isinstance(model, LoadedModel) else int(model.config.get_text_config().num_hidden_layers)


def differences(ours: sp.Activations, theirs: sp.Activations) -> list[float]:
    """The largest relative difference of each layer."""
    assert ours.layers == theirs.layers
    return [max(relative(ours.layer(k, r), theirs.layer(k, r)) for r in theirs.readouts) for k in theirs.layers]


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """One linear layer in the mixed mode."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    _convert(linear)
    return linear


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_every_family_agrees_with_float32_on_every_layer(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", family)
    mixed, whole = load_model(folder, dtype="mixed"), load_model(folder, dtype="float32")
    assert (mixed.dtype, mixed.stream_dtype) == ("mixed", torch.float32)
    assert type(mixed.model) is type(whole.model)
    suffix = "" if family == "bert" else SUFFIX
    apart = differences(vectors(mixed, suffix=suffix), vectors(whole, suffix=suffix))
    assert len(apart) == 4
    assert 1e-6 < max(apart) < TINY  # and it is not float32 under another name


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_products_and_tables_are_float16_and_all_else_is_as_in_float32(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", family)
    mixed, whole = load_model(folder, dtype="mixed").model, load_model(folder, dtype="float32").model
    theirs = dict(whole.named_parameters())
    narrow = set()
    for name, parameter in mixed.named_parameters():
        assert torch.equal(parameter, theirs[name].to(parameter.dtype))
        if parameter.dtype == torch.float16:
            narrow.add(name)
        else:
            assert parameter.dtype == torch.float32
            assert parameter.ndim < 2 or "vision" in name or "projector" in name, name
    assert len(narrow) > 10
    assert not [name for name in narrow if "norm" in name.lower() or "ln_" in name or name.endswith("bias")]
    buffers = dict(whole.named_buffers())
    for name, buffer in mixed.named_buffers():  # rotary frequencies, Gemma's embedding scale
        assert buffer.dtype == buffers[name].dtype
        assert torch.equal(buffer, buffers[name])


def outsized(folder: Path, family: str) -> Path:
    """A Gemma 3 of six blocks whose residual stream, and what enters and leaves down_proj, pass 65,504; in bfloat16, as
    Gemma 3 is published."""
    model, tokenizer = tiny_model(family, n_layers=6)
    blocks = model.get_decoder().layers
    with torch.no_grad():
        for i, block in enumerate(blocks):
            block.post_feedforward_layernorm.weight.fill_(2e4 * (i + 1))
            block.mlp.gate_proj.weight.mul_(10)
            block.mlp.up_proj.weight.mul_(3e5)
            block.mlp.down_proj.weight.mul_(30)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3"])
def test_a_gemma_3_that_float16_cannot_hold_agrees_with_float32_to_one_per_cent_on_every_layer(
    family: str, tmp_path: Path
) -> None:
    folder = outsized(tmp_path / "outsized", family)
    whole = load_model(folder, dtype="float32")
    largest: dict[str, float] = {}

    def watched(name: str) -> Any:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            for key, tensor in ((f"into {name}", inputs[0]), (f"out of {name}", output)):
                largest[key] = max(largest.get(key, 0.0), float(tensor.abs().max()))

        return hook

    handles = [block.register_forward_hook(watched("block")) for block in whole.blocks]
    handles += [block.mlp.down_proj.register_forward_hook(watched("down_proj")) for block in whole.blocks]  # type: ignore[union-attr]
    theirs = vectors(whole)
    for handle in handles:
        handle.remove()
    assert min(largest.values()) > LARGEST_FLOAT16, largest

    half = wrap_model(type(whole.model).from_pretrained(folder, dtype=torch.float16), whole.tokenizer)
    assert half.dtype == "float16"
    with pytest.raises(NonFiniteError, match="is not finite for text"):
        vectors(half)

    apart = differences(vectors(load_model(folder, dtype="mixed")), theirs)
    assert len(apart) == 7
    assert max(apart) < ONE_PER_CENT


def test_neither_the_embeddings_of_a_bfloat16_checkpoint_nor_their_scale_are_rounded(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("gemma3_text", width=40)  # sqrt(40) is no float16 number
    model.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    ours, theirs = (vectors(load_model(tmp_path / "m", dtype=dtype)) for dtype in ("mixed", "float32"))
    assert relative(ours.layer(0, "mean"), theirs.layer(0, "mean")) < 1e-6
    rounded = vectors(load_model(tmp_path / "m", dtype="bfloat16"))
    assert relative(rounded.layer(0, "mean"), theirs.layer(0, "mean")) > 1e-4


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e6, 1e30])
def test_a_product_takes_rows_of_any_size_and_keeps_their_precision(size: float) -> None:
    torch.manual_seed(0)
    x = size * torch.randn(2, 3, 16)
    x[0, 1] = 0
    x[1, 2] *= 1e-4  # beside it, a row far smaller than its neighbours
    weight, bias = torch.randn(8, 16), size * torch.randn(8)
    got = layer_of(weight, bias)(x).detach()
    exact = x.double() @ weight.half().double().T + bias.double()
    assert got.dtype == torch.float32
    assert relative(got.reshape(-1, 8).numpy(), exact.reshape(-1, 8).numpy()) < 1e-3
    assert torch.equal(got[0, 1], bias)


@pytest.mark.parametrize("chunk", [mixed_module._CHUNK, 5000, 1])
def test_sums_of_many_large_products_do_not_leave_float16(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_module, "_CHUNK", chunk)
    x, weight = torch.full((1, 4096), 1000.0), torch.ones((4, 4096))
    weight[3] = 1000
    assert torch.isinf(nn.functional.linear(x.half(), weight.half())).all()
    np.testing.assert_allclose(layer_of(weight)(x).detach().numpy(), [[4096e3, 4096e3, 4096e3, 4096e6]], rtol=1e-3)


def test_a_value_that_is_not_finite_stays_so() -> None:
    x = torch.ones(3, 16)
    x[0, 3], x[1, 3] = torch.inf, torch.nan
    got = layer_of(torch.ones(4, 16))(x)
    assert not torch.isfinite(got[:2]).any()
    assert torch.isfinite(got[2]).all()


def test_hooks_on_any_module_see_float32_and_may_change_it(tmp_path: Path) -> None:
    loaded = load_model(save_model(tmp_path / "m", "gemma3_text", n_layers=2), dtype="mixed")
    seen: dict[str, set[torch.dtype]] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            seen.setdefault(name, set()).add((output[0] if isinstance(output, tuple) else output).dtype)

        return hook

    before = vectors(loaded)
    handles = [m.register_forward_hook(keep(name)) for name, m in loaded.body.named_modules() if "rotary" not in name]
    embedding = loaded.model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _i, output: 2 * output))
    after = vectors(loaded)
    for handle in handles:
        handle.remove()
    assert {"embed_tokens", "layers.0", "layers.1.mlp.down_proj", "layers.1.self_attn.q_norm"} <= seen.keys()
    assert set().union(*seen.values()) == {torch.float32}
    np.testing.assert_allclose(after.layer(0, "mean"), 2 * before.layer(0, "mean"), rtol=1e-6)


def test_a_mixed_model_writes_text_and_its_logits_are_those_of_float32(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "gemma3_text")
    mixed, whole = load_model(folder, dtype="mixed"), load_model(folder, dtype="float32")
    ids = torch.tensor([mixed.tokenizer("It rained.")["input_ids"]])
    with torch.inference_mode():
        ours, theirs = mixed.model(ids).logits, whole.model(ids).logits
        written = mixed.model.generate(ids, max_new_tokens=4, do_sample=False)
    assert ours.dtype == torch.float32
    assert relative(ours[0].numpy(), theirs[0].numpy()) < TINY
    assert written.shape == (1, ids.shape[1] + 4)
    assert mixed.model.lm_head.weight is mixed.model.get_input_embeddings().weight


def test_a_model_of_the_callers_own_is_left_as_it_is(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    half = load_model(model.half(), tokenizer, dtype="mixed")
    assert half.dtype == "float16"
    assert {type(m) for m in half.model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    mixed = load_model(save_model(tmp_path / "m", "llama"), dtype="mixed")
    assert wrap_model(mixed.model, mixed.tokenizer).dtype == "mixed"


def test_a_mixed_model_is_shared_with_no_other_dtype(llama_folder: Path) -> None:
    mixed = load_model(llama_folder, dtype="mixed")
    assert load_model(llama_folder, dtype="mixed") is mixed
    assert load_model(llama_folder, dtype="float32").dtype == "float32"


def test_a_checkpoint_that_lacks_weights_is_refused_in_the_mixed_mode_too(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "llama", n_layers=1)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("up_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="m lacks 1 of its weights"):
        load_model(folder, dtype="mixed")


@pytest.mark.parametrize(
    ("device", "capability", "chosen"),
    [("cpu", None, "float32"), ("mps", None, "float32"), ("cuda", (7, 5), "mixed"), ("cuda", (8, 0), "bfloat16")],
)
def test_the_dtype_is_chosen_by_what_the_device_has(
    device: str, capability: Any, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert choose_dtype("auto", torch.device(device)) == chosen
    assert choose_dtype("mixed", torch.device(device)) == "mixed"


def test_the_reason_for_the_mixed_mode_is_said(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_choices(load_model(llama_folder, dtype="mixed"), "auto", "cpu")
    said = capsys.readouterr().err
    assert "dtype: mixed (auto: bfloat16 is not native here: weights and products in float16" in said
