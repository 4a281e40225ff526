"""What a capture says it needs of the disk is not less than what it then takes, and not much more."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import strataprobe.capture.space as space_module
from builders import save_model
from stage_runs import only_the_result, stage
from strataprobe.capture.job import CaptureJob, shards_of
from strataprobe.errors import OptionError, StageError
from strataprobe.models import load_model

Usage = namedtuple("Usage", "total used free")
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


def _texts(path: Path, conversations: bool) -> Path:
    rows = []
    for i in range(60):
        said = f"{i} " + "雨が降る駅で電車を待つ。" * 4
        row: dict[str, Any] = {"text": f"{i} rain at the station", "label": "abc"[i % 3], "id": f"本文-{i:04d}" * 4}
        if conversations:
            row["messages"] = [{"role": "user", "content": said}, {"role": "user", "content": row.pop("text")}]
        rows.append(row)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("conversations", [False, True], ids=["texts", "conversations"])
@pytest.mark.parametrize("keep_tokens", [False, True], ids=["readouts", "every token"])
def test_the_space_asked_for_is_what_is_taken(
    conversations: bool, keep_tokens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "model", "llama", width=64)
    model = load_model(folder)
    model.tokenizer.chat_template = CHAT
    texts = _texts(tmp_path / "texts.jsonl", conversations)
    options: dict[str, Any] = {"keep_tokens": keep_tokens, "batch_tokens": 2000}
    options["template"] = "chat" if conversations else "none"
    taken: list[int] = []
    commit = CaptureJob._commit

    def weigh(job: CaptureJob, started_s: float) -> Any:
        folders = (job.folder.work, shards_of(job.folder.final))
        taken.append(sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file()))
        return commit(job, started_s)

    monkeypatch.setattr(CaptureJob, "_commit", weigh)

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(space_module.shutil, "disk_usage", lambda _: Usage(10**12, 0, n_bytes))

    stage(texts, model, tmp_path / "first", **options)
    free(taken[0] - 1)
    with pytest.raises((StageError, OptionError), match="free"):
        stage(texts, model, tmp_path / "out", **options)
    free(taken[0] * 5 // 4)
    stage(texts, model, tmp_path / "out", **options)
    only_the_result(tmp_path / "out")
