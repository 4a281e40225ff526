"""Running the capture stage on small texts, and looking at what it left on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strataprobe.capture.job as job_module
from plain_hook import SUFFIX
from strataprobe.capture.run import capture_stage
from strataprobe.manifest import verify_folder
from strataprobe.store import ActivationFolder

BATCH_TOKENS = 160


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


def stage(texts: Path, model: Any, out: Path, **options: Any) -> Any:
    return capture_stage(texts, model, out, **{"suffix": SUFFIX, "batch_tokens": BATCH_TOKENS, **options})


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


def refused(error: type[Exception], sentence: str, tmp_path: Path, *arguments: Any, **options: Any) -> None:
    before = everything(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        stage(*arguments, **options)
    assert everything(tmp_path) == before
    assert "\n" not in str(caught.value)


def interrupted(moment: str, texts: Path, model: Any, out: Path, **options: Any) -> Path:
    """An attempt that dies where the job calls ``moment``, such as "close_layers": the folder of its main shards."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, moment, die)
        with pytest.raises(Killed):
            stage(texts, model, out, **options)
    return out.with_name(f".{out.name}.shards") / "main"


def assert_same_vectors(one: Path, two: Path) -> None:
    """The main texts' vectors in two folders agree at every layer, as those of other batches do."""
    first, second = ActivationFolder.open(one), ActivationFolder.open(two)
    assert first.layers == second.layers
    for layer in first.layers:
        for split in ("train", "val", "test"):
            for readout in first.readouts if layer else ["mean"]:
                a, b = (folder.read(layer, split, readout) for folder in (first, second))
                assert a.ids == b.ids
                np.testing.assert_allclose(a.activations, b.activations, rtol=1e-4, atol=1e-5)
