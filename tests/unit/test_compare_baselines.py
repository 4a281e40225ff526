from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compare_folders import write_activations
from strataprobe.compare.baselines import Baseline, measure_baselines
from strataprobe.compare.layers import read_test_rows
from strataprobe.store import ActivationFolder

TWO, THREE = ("negative", "positive"), ("anger", "calm", "joy")


def asking_the_model(path: Path, class_names: tuple[str, ...], same: tuple[str, ...], rows: slice) -> Baseline:
    """The zero_shot baseline where the classes ``same`` have one logit in common in ``rows`` of the texts."""
    kind: dict[str, Any] = {"n_layers": 1, "readouts": ("mean",), "evals": (), "n_groups": 40}
    folder = write_activations(path, class_names=class_names, **kind)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]
    for row in texts[rows]:
        row["zero_shot"] |= dict.fromkeys(same, row["zero_shot"][class_names[0]])
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), "utf-8")
    opened = ActivationFolder.open(folder)
    found = measure_baselines(opened, class_names, read_test_rows(opened, 1), None)
    return next(b for b in found if b.name == "zero_shot")


def test_class_words_with_the_same_first_token_are_skipped_with_that_reason(tmp_path: Path) -> None:
    found = asking_the_model(tmp_path / "same", TWO, TWO, slice(None))
    assert found.logits is None
    assert found.reason == "the class words begin with the same token"


@pytest.mark.parametrize("same", [("anger", "calm"), THREE])
def test_two_of_three_class_words_with_the_same_first_token_are_named(tmp_path: Path, same: tuple[str, ...]) -> None:
    found = asking_the_model(tmp_path / "same", THREE, same, slice(None))
    assert found.logits is None
    assert found.reason == "the class words anger and calm begin with the same token"


@pytest.mark.parametrize("class_names", [TWO, THREE])
def test_class_words_whose_logits_agree_on_some_texts_only_are_asked(
    tmp_path: Path, class_names: tuple[str, ...]
) -> None:
    n_texts = 40 * len(class_names)
    found = asking_the_model(tmp_path / "some", class_names, class_names, slice(0, n_texts - 6))
    assert found.reason == ""
    assert found.logits is not None
