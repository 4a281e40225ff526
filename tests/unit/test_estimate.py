"""What ``--dry-run`` counts is what a capture with the same options then reads and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders import save_model
from strataprobe.capture.run import capture_stage
from strataprobe.errors import OptionError
from strataprobe.estimate import estimate
from strataprobe.pipeline import RunOptions


def options(texts: Path, model: Path, out: Path, **more: Any) -> RunOptions:
    return RunOptions(recipe=None, model=str(model), out=out, data=texts, device="cpu", **more)


@pytest.fixture(scope="module", autouse=True)
def no_timing() -> Any:
    """Speeds of matrix products are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strataprobe.estimate._flops_per_s", lambda *_: 1e9)
        yield


@pytest.mark.parametrize("form", [{}, {"template": "chat", "prefix": "Text:\n", "suffix": "\n\nend", "max_tokens": 60}])
def test_the_tokens_of_a_capture_are_counted_with_evals_template_and_cuts(
    form: dict[str, Any], texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evals = {"other": more_texts}
    found = estimate(options(texts, llama_folder, out, layers="2", evals=evals, **form))
    manifest = capture_stage(texts, llama_folder, out, layers="2", evals=evals, **{"suffix": "", **form})
    captured = manifest.details["captured"]
    assert found["n_tokens"] == sum(corpus["n_tokens"] for corpus in captured.values())
    assert (found["n_texts"], found["n_eval_texts"]) == (30, 9)
    assert bool(captured["main"]["n_truncated"]) == bool(form)
    alone = estimate(options(texts, llama_folder, out, layers="2", **form))
    assert alone["n_tokens"] == captured["main"]["n_tokens"]
    assert "n_eval_texts" not in alone
    assert found["disk_bytes"] > alone["disk_bytes"]
    assert found["elapsed_s"] >= alone["elapsed_s"]


def test_conversations_are_counted_as_the_template_writes_them(llama_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    said = [{"role": "user", "content": "Is it ready?"}, {"role": "assistant", "content": "Not before noon."}]
    file.write_text("".join(json.dumps({"messages": said, "label": label}) + "\n" for label in "ab"))
    found = estimate(options(file, llama_folder, tmp_path / "out", template="chat"))
    manifest = capture_stage(file, llama_folder, tmp_path / "out", template="chat", layers="1")
    assert found["n_tokens"] == manifest.details["captured"]["main"]["n_tokens"]
    with pytest.raises(OptionError, match="which only --template chat reads"):
        estimate(options(file, llama_folder, tmp_path / "out"))


def test_every_token_kept_is_counted_at_each_layer_asked_for(texts: Path, tmp_path: Path) -> None:
    model, out = save_model(tmp_path / "m", "llama", width=64), tmp_path / "out"
    with_tokens = options(texts, model, out, layers="1,3", keep_tokens=True)
    kept, bare = estimate(with_tokens), estimate(options(texts, model, out, layers="1,3"))
    tokens_bytes = 4 * 64 * 3 * kept["n_tokens"]  # layer 0 too
    assert kept["disk_bytes"] - bare["disk_bytes"] == 2 * tokens_bytes  # twice, while they are closed into layer files
    assert kept["memory_bytes"] > bare["memory_bytes"]
    capture_stage(texts, model, out, layers="1,3", keep_tokens=True)
    on_disk = sum(file.stat().st_size for file in out.glob("*_tokens.h5"))
    assert tokens_bytes < on_disk < 1.3 * tokens_bytes
