"""A concept of one's own in a few lines of TOML: written by a server, captured, trained, compared, all in one command."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from demo import in_process
from scripted_server import MODEL, ScriptedServer, completion
from strataprobe.dataset import read_dataset
from strataprobe.generate.run import generate
from strataprobe.recipe import load_recipe

CLASSES = ("fear", "gratitude", "sadness")
N_PER_CLASS = 48
RECIPE = """
name = "threefold"
suffix = "\\n\\nWhat the writer goes through here is"
label_field = "kind"
""" + "".join(
    f'\n[[classes]]\nname = "{name}"\ndescription = "The writer goes through what is called {name} by others."\n'
    for name in CLASSES
)


class Poet:
    """Answers with a text that suits the class asked for, another one every time; every seventh answer is a refusal."""

    def __init__(self, folder: Path) -> None:
        generate(load_recipe("emotions"), folder, n_per_class=N_PER_CLASS + 20)
        rows = read_dataset(folder).rows
        self.texts = {name: [row.text for row in rows if row.label == name] for name in CLASSES}
        self.lock = threading.Lock()

    def __call__(self, number: int, body: dict[str, Any]) -> Any:
        asked = body["messages"][0]["content"]
        name = next(name for name in CLASSES if f"called {name} by" in asked)
        with self.lock:
            return completion("I'm sorry, but I can't help with that." if number % 7 == 0 else self.texts[name].pop())


@pytest.mark.slow
def test_three_classes_go_from_a_toml_file_to_probes_in_one_command(tmp_path: Path) -> None:
    (tmp_path / "threefold.toml").write_text(RECIPE)
    checked = in_process("generate", "--check", tmp_path / "threefold.toml", "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["plan"]["classes"] == list(CLASSES)
    out = tmp_path / "out"
    with ScriptedServer(Poet(tmp_path / "texts")) as server:
        where = ("--backend", "openai", "--base-url", server.url, "--llm", MODEL, "--n-per-class", N_PER_CLASS)
        done = in_process(
            "run", tmp_path / "threefold.toml", "--model", "demo", "--out", out, "--layers", "2,4", *where
        )
    assert done.returncode == 0, done.stderr
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["classes"] == list(CLASSES)
    assert comparison["best_layer"] in (2, 4)
    assert all(entry["cv_auc"] > 0.7 > entry["control_auc"] for entry in comparison["layers"])
    audit = json.loads((out / "data" / "audit.json").read_text())
    assert audit["counts"]["label"] == dict.fromkeys(CLASSES, N_PER_CLASS)
    assert audit["asked"]["rejected"].keys() >= {"refusal"}
    assert audit["asked"]["accepted"] == 3 * N_PER_CLASS
    refused = (out / "data" / "rejected.jsonl").read_text()
    assert refused.count('"refusal"') == audit["asked"]["rejected"]["refusal"]
    told = in_process(
        "predict", "Thank you all, I did not expect it.", "--probes", out / "probes", "--model", "demo", "--json"
    )
    assert {p["action"] for p in json.loads(told.stdout)["predictions"]} == set(CLASSES)
    assert "rejected" in (out / "report.html").read_text("utf-8")
