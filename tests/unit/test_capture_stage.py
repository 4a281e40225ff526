"""The capture stage on disk: resumed, extended, refused, and the same bytes each time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strataprobe.capture.run as run_module
import strataprobe.manifest as manifest_module
from builders import save_model, tiny_model
from plain_hook import SUFFIX
from strataprobe.capture.run import capture_stage
from strataprobe.capture.shards import ShardFolder
from strataprobe.errors import DataError, ModelError, OptionError, StageError
from strataprobe.manifest import verify_folder
from strataprobe.models import load_model
from strataprobe.store import ActivationFolder

BATCH_TOKENS = 160
TESTS = Path(__file__).resolve().parent.parent


class Killed(BaseException):
    """Stands for the process dying: nothing in the code catches it."""


def write_texts(path: Path, n: int = 30, words: str = "rain train soup window coast job seat hour") -> Path:
    pool = words.split()
    rows = []
    for i in range(n):
        text = f"{i} " + " ".join(pool[(i * 7 + k * k) % len(pool)] for k in range(1 + i % 9)) + " – für 🙂"
        rows.append({"text": text, "label": ("negative", "positive")[i % 2]})
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture(scope="module")
def more_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "more.jsonl", 9, "snow lamp drive coffee table coat")


def stage(texts: Path, model: Any, out: Path, **options: Any) -> Any:
    return capture_stage(texts, model, out, **{"suffix": SUFFIX, "batch_tokens": BATCH_TOKENS, **options})


@pytest.fixture(scope="module")
def whole(texts: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data files of an uninterrupted capture of layers 1 to 6."""
    out = tmp_path_factory.mktemp("whole") / "activations"
    stage(texts, llama_folder, out)
    return data_files(out)


def data_files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "manifest.json"}


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def shards_of(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.with_name(f".{out.name}.shards").rglob("*.safetensors")}


@contextmanager
def counted(model: Any, see: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that gets one entry for each forward pass; ``see`` is called at each."""
    passes: list[int] = []

    def count(*_: Any) -> None:
        passes.append(1)
        see()

    handle = model.blocks[0].register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def only_the_result(out: Path) -> None:
    left = [p.name for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")]
    assert left == []
    assert [p.name for p in out.iterdir() if p.name.startswith(".") or p.name == "stage_key.json"] == []
    assert verify_folder(out) == []


def test_two_captures_give_the_same_bytes(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    stage(texts, str(llama_folder), tmp_path / "elsewhere" / "activations")
    again = data_files(tmp_path / "elsewhere" / "activations")
    assert sorted(again) == [*(f"layer_{k}_activations.h5" for k in range(7)), "texts.jsonl"]
    assert again == whole
    only_the_result(tmp_path / "elsewhere" / "activations")


def test_a_finished_capture_is_not_done_again(texts: Path, tmp_path: Path) -> None:
    model = load_model(*tiny_model("llama"))
    out = tmp_path / "activations"
    with counted(model) as passes:
        first = stage(texts, model, out)
    assert 5 < len(passes) < 20
    before = everything(tmp_path)
    with counted(model) as passes:
        assert stage(texts, model, out).files == first.files
        assert stage(texts, model, out, layers="2").files == first.files
    assert passes == []
    assert everything(tmp_path) == before


SLOW_CAPTURE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from strataprobe.capture.run import capture_stage
from strataprobe.models import load_model
model = load_model(sys.argv[3])
model.blocks[0].register_forward_pre_hook(lambda *_: time.sleep(0.15))
capture_stage(Path(sys.argv[2]), model, Path(sys.argv[4]), suffix=sys.argv[5], batch_tokens=int(sys.argv[6]))
"""


def test_a_capture_killed_in_the_middle_goes_on_at_its_next_batch(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    arguments = [str(TESTS), str(texts), str(llama_folder), str(out), SUFFIX, str(BATCH_TOKENS)]
    process = subprocess.Popen([sys.executable, "-c", SLOW_CAPTURE, *arguments], stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 120
        while len(shards_of(out)) < 4 and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    done = shards_of(out)
    model = load_model(llama_folder)
    plan = json.loads((out.with_name(".activations.shards") / "main" / "plan.json").read_text())
    assert 4 <= len(done) < len(plan) - 2
    assert not out.exists()

    kept: dict[str, int] = {}
    with counted(model, lambda: kept.update(shards_of(out))) as passes:
        stage(texts, model, out)
    assert len(passes) == len(plan) - len(done)
    assert {name: kept[name] for name in done} == done
    assert data_files(out) == whole
    only_the_result(out)


@pytest.mark.parametrize("moment", ["closing", "recording", "manifest", "renaming", "renamed"])
@pytest.mark.parametrize("extending", [False, True])
def test_a_capture_killed_after_its_last_batch_reads_nothing_again(
    moment: str,
    extending: bool,
    texts: Path,
    llama_folder: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    if extending:
        stage(texts, model, out, layers="1-3")

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    def die_at_third(*arguments: Any, **columns: Any) -> None:
        if "layer_5" in str(arguments[0]):
            raise Killed
        real_write(*arguments, **columns)

    import strataprobe.capture.close as close_module

    real_write = close_module.write_layer_file
    with monkeypatch.context() as patch:
        if moment == "closing":
            patch.setattr(close_module, "write_layer_file", die_at_third)
        elif moment == "recording":
            patch.setattr(manifest_module, "record_files", die)
            patch.setattr(run_module, "record_files", die)
        elif moment == "manifest":
            patch.setattr(manifest_module, "write_manifest", die)
            patch.setattr(run_module, "write_manifest", die)
        else:
            real_replace = os.replace

            def replace(source: Any, target: Any) -> None:
                last = Path(target) == (out / "layer_5_activations.h5" if extending else out)
                if last and moment == "renaming":
                    raise Killed
                real_replace(source, target)
                if last:
                    raise Killed

            patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            stage(texts, model, out)
    with counted(model) as passes:
        stage(texts, model, out)
    assert passes == []
    assert data_files(out) == whole
    only_the_result(out)


def test_a_kill_after_everything_is_in_place_leaves_nothing_behind_at_the_next_run(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shards, real = out.with_name(".activations.shards"), shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if path == shards and path.is_dir():
            raise Killed
        real(path, **options)

    for layers in ("1-3", "1-6"):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", rmtree)
            with pytest.raises(Killed):
                stage(texts, model, out, layers=layers)
        assert out.is_dir()
        stage(texts, model, out, layers=layers)
        only_the_result(out)
    assert data_files(out) == whole


def test_layers_asked_for_later_are_captured_alone_and_the_set_is_as_if_captured_at_once(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out, layers="1-3")
    assert ActivationFolder.open(out).layers == [0, 1, 2, 3]
    before = everything(out)
    written: list[str] = []
    real = ShardFolder.write
    monkeypatch.setattr(
        ShardFolder, "write", lambda self, b, r: (written.extend(f"{k}" for _, k in r.vectors), real(self, b, r))[1]
    )
    stage(texts, model, out, layers="1-6")
    assert set(written) == {"4", "5", "6"}
    after = everything(out)
    for layer in range(4):
        assert after[f"layer_{layer}_activations.h5"] == before[f"layer_{layer}_activations.h5"]
    assert data_files(out) == whole
    only_the_result(out)


def test_eval_texts_may_be_added_later_and_are_kept_apart(
    texts: Path, more_texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    at_once, later = tmp_path / "one" / "activations", tmp_path / "two" / "activations"
    stage(texts, llama_folder, at_once, evals={"snow": more_texts})
    stage(texts, llama_folder, later)
    before = everything(later)
    stage(texts, llama_folder, later, evals={"snow": more_texts})
    assert data_files(later) == data_files(at_once)
    after = everything(later)
    assert all(after[name] == before[name] for name in before if name.endswith("activations.h5"))
    assert {n: b for n, b in data_files(later).items() if n in whole and n != "texts.jsonl"} == {
        n: b for n, b in whole.items() if n != "texts.jsonl"
    }
    folder = ActivationFolder.open(later)
    assert folder.eval_names == ["snow"]
    rows = folder.read_eval(3, "snow")
    assert rows.activations.shape == (9, folder.d_model)
    assert rows.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    splits = [row["split"] for row in folder.texts()]
    assert splits[:30] == [row["split"] for row in map(json.loads, whole["texts.jsonl"].decode().splitlines())]
    assert splits[30:] == ["eval_snow"] * 9
    only_the_result(later)


def refused(error: type[Exception], sentence: str, tmp_path: Path, *arguments: Any, **options: Any) -> None:
    before = everything(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        stage(*arguments, **options)
    assert everything(tmp_path) == before
    assert "\n" not in str(caught.value)


def test_other_texts_another_model_or_other_options_are_refused_and_nothing_changes(
    texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    stage(texts, llama_folder, out, layers="1-2", evals={"snow": more_texts})
    other = save_model(tmp_path / "other", "llama", n_layers=6, seed=1)
    made = "made from something else"
    refused(StageError, f"{made} .texts_sha256", tmp_path, more_texts, llama_folder, out)
    refused(StageError, f"{made} .model_revision", tmp_path, texts, other, out, layers="1-4")
    for name, option in {
        "suffix": {"suffix": " other"},
        "prefix": {"prefix": "Text: "},
        "readouts": {"readouts": ["mean"]},
        "max_tokens": {"max_tokens": 100},
        "dtype": {"dtype": "bfloat16"},
        "template": {"template": "chat"},
    }.items():
        refused(StageError, f"{made} .*{name} ", tmp_path, texts, llama_folder, out, **option)
    refused(
        StageError, "'snow' was captured from other texts", tmp_path, texts, llama_folder, out, evals={"snow": texts}
    )
    assert stage(texts, llama_folder, out, layers="1-2", evals={"snow": more_texts}).stage == "capture"


def test_an_unfinished_capture_is_not_mixed_with_other_options(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "close_layers", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stage(texts, llama_folder, out)
    refused(StageError, r"holds an unfinished 'capture'.*suffix", tmp_path, texts, llama_folder, out, suffix="?")
    stage(texts, llama_folder, out)
    only_the_result(out)


def test_a_folder_of_the_users_own_files_is_left_alone(texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refused(StageError, "has no manifest.json", tmp_path, texts, llama_folder, out)


def test_bad_options_and_eval_texts_are_refused_before_anything_is_written(
    texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    third = tmp_path / "third.jsonl"
    third.write_text('{"text": "x", "label": "neutral"}\n')
    refused(OptionError, "layers 1 to 6", tmp_path, texts, llama_folder, out, layers="5-9")
    refused(OptionError, "cannot be read: write them like", tmp_path, texts, llama_folder, out, layers="5..9")
    refused(OptionError, "name may hold only", tmp_path, texts, llama_folder, out, evals={"a/b": more_texts})
    refused(DataError, "has the class 'neutral'", tmp_path, texts, llama_folder, out, evals={"third": third})
    refused(OptionError, "readout 'first'", tmp_path, texts, llama_folder, out, readouts=["first"])
    refused(OptionError, "--dtype 'float16' cannot be used", tmp_path, texts, llama_folder, out, dtype="float16")
    refused(OptionError, "--device 'tpu9' is not a device", tmp_path, texts, llama_folder, out, device="tpu9")
    assert not out.exists()


@pytest.mark.parametrize("value", ["0", "-3", "many", 0])
def test_a_token_budget_that_is_no_positive_number_is_refused(
    value: Any, texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="neither 'auto' nor a positive number"):
        stage(texts, llama_folder, tmp_path / "activations", batch_tokens=value)


def test_a_value_that_is_not_finite_stops_the_capture_and_writes_no_row_of_its_batch(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)

    n_passes: list[int] = []

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        n_passes.append(1)
        bad = hidden * float("inf") if len(n_passes) > 3 else hidden
        return (bad, *output[1:]) if isinstance(output, tuple) else bad

    handle = model.blocks[4].register_forward_hook(spoil)
    try:
        with pytest.raises(ModelError, match=r"layer 5 \(last\) of tiny-llama is not finite for text '0000\d\d' in"):
            stage(texts, model, out)
    finally:
        handle.remove()
    assert not out.exists()
    assert len(shards_of(out)) == 3
    stage(texts, model, out)
    assert data_files(out) == whole


def test_a_full_disk_is_a_sentence_and_finished_batches_are_kept(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import strataprobe.capture.shards as shards_module

    out = tmp_path / "activations"
    real = shards_module.save_file

    def full(tensors: Any, path: Path) -> None:
        if "000003" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "save_file", full)
        with pytest.raises(StageError, match="free some space, then run the same command again"):
            stage(texts, llama_folder, out)
    assert sorted(shards_of(out)) == [f"00000{i}.safetensors" for i in range(3)]
    stage(texts, llama_folder, out)
    assert data_files(out) == whole


def test_a_full_disk_while_layers_are_added_is_a_sentence_and_reads_nothing_again(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out, layers="1-3")
    real = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if "layer_5" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(StageError, match="layer_5_activations.h5 could not be written .*free some space"):
            stage(texts, model, out)
    with counted(model) as passes:
        stage(texts, model, out)
    assert passes == []
    assert data_files(out) == whole
    only_the_result(out)


def test_class_word_logits_that_are_not_finite_are_an_error(texts: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"layer 3 \(class words\) of .* is not finite for text '0000"):
        stage(texts, model, tmp_path / "activations", tokenizer=tokenizer)
    assert stage(texts, model, tmp_path / "other", tokenizer=tokenizer, layers="1-2").stage == "capture"


def test_a_shard_cut_short_is_named(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "close_layers", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stage(texts, llama_folder, out)
    shard = out.with_name(".activations.shards") / "main" / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StageError, match=r"000001.safetensors is damaged .*delete it and run the same command again"):
        stage(texts, llama_folder, out)
    shard.unlink()
    stage(texts, llama_folder, out)
    only_the_result(out)


def test_texts_cut_at_their_end_are_counted_and_marked(
    texts: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "activations"
    limit = 45
    manifest = stage(texts, llama_folder, out, max_tokens=limit, layers="1")
    rows = ActivationFolder.open(out).texts()
    cut = [r["id"] for r in rows if r.get("truncated")]
    assert 0 < len(cut) < 30
    assert max(r["n_tokens"] for r in rows) <= limit
    captured = manifest.details["captured"]["main"]
    assert (captured["n_truncated"], captured["truncated_ids"]) == (len(cut), cut)
    assert captured["n_tokens"] == sum(r["n_tokens"] for r in rows)
    assert f"{len(cut)} of 30 texts were longer than 45 tokens and were cut" in capsys.readouterr().err
    stage(texts, llama_folder, tmp_path / "other", layers="1")
    assert "cut" not in capsys.readouterr().err


def test_what_is_chosen_automatically_is_said_with_its_reason(
    texts: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture_stage(texts, llama_folder, tmp_path / "activations", layers="1")
    said = capsys.readouterr().err
    for line in (
        "device: cpu (auto: ",
        "dtype: float32 (auto: ",
        "batch-tokens: 2,048 (auto: ",
        "readout: last, mean (auto: ",
    ):
        assert line in said
    capture_stage(
        texts,
        llama_folder,
        tmp_path / "b",
        layers="1",
        device="cpu",
        dtype="float32",
        batch_tokens=99,
        readouts=["mean"],
    )
    assert "auto" not in capsys.readouterr().err


def test_an_encoder_reads_the_mean_without_the_recipes_suffix(texts: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("bert")
    capture_stage(texts, model, tmp_path / "activations", tokenizer=tokenizer)
    folder = ActivationFolder.open(tmp_path / "activations")
    assert (folder.readouts, folder.info["suffix"]) == (["mean"], "")
    assert all("zero_shot" not in row for row in folder.texts())
    assert np.isfinite(folder.read(3, "train").activations).all()
