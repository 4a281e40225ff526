"""Which weights are these: the same digest for the same weights, another for any change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import tiny_model
from strataprobe import modelfiles
from strataprobe.modelfiles import folder_revision, parameters_revision
from strataprobe.models import wrap_model


def test_the_same_weights_saved_again_have_the_same_revision(llama_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(llama_folder).save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path / "again")
    assert folder_revision(tmp_path / "again") == folder_revision(llama_folder)
    shutil.copytree(llama_folder, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["transformers_version"] = "9.9.9"
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config, indent=4))
    assert folder_revision(tmp_path / "copy") == folder_revision(llama_folder)


def changed(folder: Path, tmp_path: Path, change: Any) -> str:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    change(copy)
    return folder_revision(copy)


@pytest.mark.parametrize("whole_bytes", [64 * 2**20, 40_000])
def test_a_change_of_any_layers_weights_of_the_config_or_the_tokenizer_changes_the_revision(
    whole_bytes: int, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelfiles, "_WHOLE_BYTES", whole_bytes)
    before = folder_revision(llama_folder)
    seen = {before}

    def scaled(name: str) -> Any:
        def change(copy: Path) -> None:
            weights = load_file(copy / "model.safetensors")
            weights[name] = weights[name] * 1.01
            save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

        return change

    names = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(6)]
    for name in names:
        seen.add(changed(llama_folder, tmp_path, scaled(name)))
    seen.add(changed(llama_folder, tmp_path, lambda c: (c / "tokenizer.json").write_text("{}")))
    config = json.loads((llama_folder / "config.json").read_text()) | {"rms_norm_eps": 1e-3}
    seen.add(changed(llama_folder, tmp_path, lambda c: (c / "config.json").write_text(json.dumps(config))))
    assert len(seen) == len(names) + 3
    assert changed(llama_folder, tmp_path, lambda c: (c / "README.md").write_text("x")) == before


def test_a_model_in_memory_is_known_by_its_weights() -> None:
    one, two = tiny_model("llama")[0], tiny_model("llama")[0]
    assert parameters_revision(one) == parameters_revision(two)
    assert parameters_revision(one) == parameters_revision(two.to(torch.bfloat16))
    two.to(torch.float32)
    with torch.no_grad():
        two.model.layers[2].mlp.up_proj.weight.mul_(1.01)
    assert parameters_revision(one) != parameters_revision(two)
    assert wrap_model(*tiny_model("llama")).identity.revision == parameters_revision(one)
