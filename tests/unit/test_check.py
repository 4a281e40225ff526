"""``check``: a sound model is trusted, and each way of being wrong is found and named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from builders import FAMILIES, save_model, tiny_model
from strataprobe.capture import hooks
from strataprobe.capture.check import TOLERANCE, ModelCheck, check_model
from strataprobe.errors import ModelError
from strataprobe.models import load_model, wrap_model


def one_sentence(result: ModelCheck) -> str:
    assert "\n" not in result.verdict
    assert result.verdict.endswith(".")
    return result.verdict


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_model_of_every_family_is_trusted_at_every_layer(family: str, tiny: Any) -> None:
    result = check_model(tiny(family))
    assert [c.layer for c in result.layers] == [0, 1, 2, 3]
    assert result.readouts == ("last", "mean")
    assert result.tolerance == TOLERANCE["float32"]
    assert result.trusted, result
    assert one_sentence(result).startswith(f"{result.model_name} can be trusted here: layers 0 to 3 agree")


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "bert"])
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_a_sound_model_is_trusted_in_every_dtype(family: str, dtype: str, tmp_path: Path) -> None:
    result = check_model(load_model(save_model(tmp_path / "m", family), dtype=dtype))
    assert (result.dtype, result.tolerance) == (dtype, TOLERANCE[dtype])
    assert result.trusted, result


def test_an_encoder_that_sees_its_padding_is_not_trusted() -> None:
    loaded = wrap_model(*tiny_model("bert"))
    loaded.causal = True  # so it gets no mask
    result = check_model(loaded)
    assert not result.trusted
    assert "changes with padding by" in one_sentence(result)
    assert "try another version of transformers" in result.verdict


@pytest.mark.parametrize(("position", "found"), [(3, "mean"), (-1, "last")])
def test_a_difference_at_one_position_alone_is_found(
    position: int, found: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = hooks.hidden_of

    def changed(output: Any, shape: tuple[int, int]) -> Any:
        hidden = sound(output, shape).clone()
        hidden[:, position] *= 1.5
        return hidden

    monkeypatch.setattr(hooks, "hidden_of", changed)
    result = check_model(tiny("llama"))
    assert not result.trusted, found
    assert min(c.against_library for c in result.layers[1:]) > 1e-2, found


def test_a_difference_from_the_librarys_states_is_named_with_its_layer(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = hooks.hidden_of
    monkeypatch.setattr(hooks, "hidden_of", lambda output, shape: sound(output, shape) * 1.01)
    result = check_model(tiny("gemma3_text"))
    assert result.last_layer_is_raw
    assert "differs from the library's hidden states by 1.0e-02 of the norm (1e-05 allowed)" in one_sentence(result)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_last_layer_read_behind_the_final_norm_is_not_trusted(family: str) -> None:
    loaded = wrap_model(*tiny_model(family))
    loaded.blocks = nn.ModuleList([*loaded.blocks[:-1], loaded.final_norm])
    result = check_model(loaded)
    assert not result.trusted
    assert "its last layer could not be read before the final norm" in one_sentence(result)


@pytest.mark.parametrize(("given", "found"), [(None, "no hidden states"), ((), "0 hidden states")])
def test_a_model_that_gives_no_hidden_states_is_refused(given: Any, found: str) -> None:
    class Silent(nn.Module):
        def forward(self, **_: Any) -> Any:
            return SimpleNamespace(last_hidden_state=None, hidden_states=given)

    loaded = wrap_model(*tiny_model("llama"))
    loaded.model = Silent()
    with pytest.raises(ModelError, match=f"gives {found} where 4 were expected") as caught:
        check_model(loaded)
    assert "\n" not in str(caught.value)
