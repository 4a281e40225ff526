"""The judge: agreement and kappa of a second model's labels, on an even sample, asked once each."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from scripted_backend import ScriptedBackend, three_classes
from strataprobe.dataset import Text
from strataprobe.generate import judge as judge_module
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.judge import JUDGED_NAME, Judge, class_named, open_judge, question
from strataprobe.recipe import load_recipe

RECIPE = three_classes()
NAMES = RECIPE.class_names


def rows_of(n: int, names: list[str] = NAMES) -> list[Text]:
    """``n`` rows a class, in turn; the text of each is its id."""
    return [
        Text(f"{i:04d}-{name}", f"Text {i:04d}-{name}.", name, "train", f"g{i}") for i in range(n) for name in names
    ]


def judge(says: Callable[[str], str | None]) -> tuple[Judge, ScriptedBackend]:
    """A judge that says ``says(id)`` of the text with that id."""
    backend = ScriptedBackend(replies=lambda prompt: says(re.search(r"Text (\S+)\.", prompt).group(1)))
    return Judge(backend), backend


def test_a_judge_who_always_agrees_has_agreement_and_kappa_one(tmp_path: Path) -> None:
    second, backend = judge(lambda i: i[5:].replace("_", " ").upper() + ".")
    found = second.agreement(RECIPE, rows_of(7), tmp_path)
    assert found == {
        "model": "scripted", "n": 21, "n_unclear": 0, "agreement": 1.0, "kappa": 1.0,
        "by_class": dict.fromkeys(NAMES, 1.0), "disagreements": [],
    }  # fmt: skip
    assert len(backend.prompts) == 21


@pytest.mark.parametrize("seed", range(6))
def test_agreement_and_kappa_are_those_of_another_implementation(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    rows = rows_of(30)
    replies = {r.id: rng.choices([r.label, *NAMES, "I cannot tell", None], [3, 1, 1, 1, 1, 1])[0] for r in rows}
    second, _ = judge(lambda i: replies[i])
    found = second.agreement(RECIPE, rows, tmp_path)
    labels = [r.label for r in rows]
    said = [replies[r.id] if replies[r.id] in NAMES else "unclear" for r in rows]
    assert found["agreement"] == pytest.approx(np.mean(np.array(labels) == np.array(said)), abs=1e-4)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(labels, said), abs=1e-4)
    assert found["n_unclear"] == said.count("unclear") > 0
    for name in NAMES:
        own = [s == label for label, s in zip(labels, said, strict=True) if label == name]
        assert found["by_class"][name] == pytest.approx(np.mean(own), abs=1e-4)
    wrong = [r.id for r, s in zip(rows, said, strict=True) if s != r.label]
    assert found["disagreements"] == wrong[:20]


def test_kappa_is_left_out_where_it_has_no_meaning(tmp_path: Path) -> None:
    second, _ = judge(lambda i: "dry")
    alone = [r for r in rows_of(5) if r.label == "dry"]
    found = second.agreement(RECIPE, alone, tmp_path)
    assert (found["kappa"], found["agreement"]) == (None, 1.0)
    (tmp_path / "none").mkdir()
    nothing = second.agreement(RECIPE, [], tmp_path / "none")
    assert (nothing["n"], nothing["kappa"], nothing["agreement"]) == (0, None, 0.0)
    json.dumps([found, nothing], allow_nan=False)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("dry", "dry"),
        ("**Dry**", "dry"),
        ("The answer is: wet_days.", "wet_days"),
        ("Wet days", "wet_days"),
        ("wet-days", "wet_days"),
        ("dry or still", None),
        ("dry, not still", None),
        ("laundry", None),
        ("wet", None),
        ("", None),
        ("I'm sorry, but I can't help with that.", None),
    ],
)
def test_an_answer_counts_where_it_names_one_class(answer: str, name: str | None) -> None:
    assert class_named(answer, NAMES) == name


def test_a_name_inside_a_longer_name_is_not_named() -> None:
    names = ["awareness", "meta_awareness", "cognition_awareness"]
    assert class_named("Meta-awareness", names) == "meta_awareness"
    assert class_named("awareness", names) == "awareness"
    assert class_named("meta_awareness, cognition_awareness", names) is None


def test_the_sample_is_even_by_class_and_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "MAX_TEXTS", 30)
    rows = [r for r in rows_of(40) if r.label != "still" or r.id < "0004"]
    asked = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        second, _ = judge(lambda i: "dry")
        found = second.agreement(RECIPE, rows, tmp_path / folder)
        asked.append([json.loads(line)["id"] for line in (tmp_path / folder / JUDGED_NAME).read_text().splitlines()])
        assert found["n"] == 24
    assert asked[0] == asked[1] == sorted(asked[0])
    assert Counter(i[5:] for i in asked[0]) == {"dry": 10, "wet_days": 10, "still": 4}


def test_answers_are_kept_as_they_come_and_a_restart_asks_for_the_rest(tmp_path: Path) -> None:
    rows = rows_of(50)
    calls = 0

    def fails(i: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 100:
            raise ConnectionError
        return i[5:]

    broken, _ = judge(fails)
    with pytest.raises(ConnectionError):
        broken.agreement(RECIPE, rows, tmp_path)
    kept = (tmp_path / JUDGED_NAME).read_bytes()
    assert kept.count(b"\n") == 64
    (tmp_path / JUDGED_NAME).write_bytes(kept[:-9])  # a kill tore the last line
    second, backend = judge(lambda i: i[5:])
    found = second.agreement(RECIPE, rows, tmp_path)
    assert found["agreement"] == 1.0
    assert len(backend.prompts) == 150 - 63
    lines = (tmp_path / JUDGED_NAME).read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(r.id for r in rows)
    third, silent = judge(lambda i: None)
    assert third.agreement(RECIPE, rows, tmp_path) == found
    assert silent.prompts == []


@pytest.mark.parametrize("name", ["sentiment", "cognitive_actions"])
def test_the_question_gives_the_text_and_every_class_and_not_the_label(name: str) -> None:
    recipe = load_recipe(name)
    asked = question(recipe, "I walked home.")[0]["content"]
    assert asked.count("I walked home.") == 1
    assert [line[2:].partition(":")[0] for line in asked.split("\n") if line.startswith("- ")] == recipe.class_names
    assert "- still: Nothing stirs" in question(RECIPE, "x")[0]["content"]


@pytest.mark.parametrize(
    ("backend", "base_url", "expected"),
    [("builtin", None, "ollama"), ("builtin", "http://127.0.0.1:1/v1", "openai"), ("openai", "http://x/v1", "openai")],
)
def test_the_judge_is_on_the_server_that_writes(
    backend: str, base_url: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(judge_module, "open_backend", lambda *args: opened.append(args) or ScriptedBackend())
    open_judge("second", backend, BackendOptions(base_url=base_url, llm="first"))
    assert [(name, options.llm, *rest) for name, options, *rest in opened] == [
        (expected, "second", "second", "--judge")
    ]
