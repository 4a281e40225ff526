"""The main job on the demo model, as a newcomer does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import strataprobe as sp
from demo import demo_run, in_process
from strataprobe.dataset import Dataset

EXCITED = "I'm so excited about this new opportunity! It feels like everything is finally coming together."
OVERWHELMED = "I'm feeling really frustrated and overwhelmed by everything."
REAL = ("cad_imdb_pairs", "emobank__score", "tweeteval_sentiment", "uci_amazon", "uci_imdb", "uci_yelp")


def test_the_run_ends_with_a_table_of_layers_and_the_paths() -> None:
    run = demo_run()
    for layer in range(1, 7):
        assert any(line.split()[:1] == [str(layer)] for line in run.stdout.splitlines())
    for name in ("data", "activations", "probes", "sentiment_layer_comparison.png", "report.html"):
        assert str(Path("outputs/demo") / name) in run.stdout
    assert max(map(len, run.stdout.split("C001")[0].splitlines())) <= 80


def test_the_run_stays_within_its_memory() -> None:
    assert demo_run().peak_memory_bytes < 3 * 2**30


@pytest.mark.parametrize("how", [(), ("--ensemble", "3,4,5")])
def test_two_plain_sentences_are_read_rightly_by_the_best_layer_and_by_an_ensemble(how: tuple[str, ...]) -> None:
    out = demo_run().out
    done = in_process("predict", EXCITED, OVERWHELMED, "--probes", out / "probes", "--model", "demo", "--json", *how)
    assert done.returncode == 0, done.stderr
    excited, overwhelmed = (json.loads(line) for line in done.stdout.splitlines())
    assert excited["text"] == EXCITED
    for document, expected in ((excited, "positive"), (overwhelmed, "negative")):
        best = document["predictions"][0]
        assert best["action"] == expected
        assert best["probability"] > 0.8
        assert best["active"]
        assert sum(p["probability"] for p in document["predictions"]) == pytest.approx(1)


@pytest.mark.slow
def test_probes_trained_on_generated_text_work_on_real_text(data_folder: Path) -> None:
    one = sp.MultiProbeInference(demo_run().out / "probes", "demo")
    found = {}
    for name in REAL:
        whole = sp.read_dataset(data_folder / "real_text" / f"{name}.jsonl")
        some = Dataset(name, whole.rows[:: max(1, len(whole.rows) // 200)], whole.class_names)
        found[name] = sp.evaluate(one, some)
    assert found["emobank__score"]["n_skipped"] > 100
    assert sum(result["auc"] for result in found.values()) / len(found) >= 0.86, found


def test_evaluate_prints_one_document(tmp_path: Path) -> None:
    lines = [{"text": EXCITED, "label": "positive"}, {"text": OVERWHELMED, "label": "negative"}, {"text": "A table."}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = in_process(
        "evaluate", "--probes", demo_run().out / "probes", "--model", "demo", "--data", tmp_path / "x.jsonl", "--json"
    )
    result = json.loads(done.stdout)
    assert (result["n"], result["n_skipped"], result["auc"], result["accuracy"]) == (2, 1, 1.0, 1.0)
    assert result["auc_low"] < result["auc_high"]


def test_run_again_does_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = demo_run()
    monkeypatch.chdir(run.folder)
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.out.rglob("*") if p.is_file() and p.name != "run.json"
    }
    done = in_process("run", "sentiment", "--model", "demo", "--out", "outputs/demo")
    assert done.returncode == 0, done.stderr
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert done.stdout == run.stdout


def test_a_dry_run_estimates_and_runs_nothing(tmp_path: Path) -> None:
    done = in_process("run", "--model", "demo", "--out", tmp_path / "out", "--dry-run", "--json")
    found = json.loads(done.stdout)
    run = demo_run()
    captured = json.loads((run.out / "activations" / "manifest.json").read_text())["details"]["captured"]["main"]
    assert found["n_texts"] == 1400
    assert found["n_tokens"] == pytest.approx(captured["n_tokens"], rel=0.15)
    assert found["elapsed_s"] == pytest.approx(run.elapsed_s, rel=0.7)
    assert found["memory_bytes"] == pytest.approx(run.peak_memory_bytes, rel=1)
    on_disk = sum(p.stat().st_size for p in run.out.rglob("*") if p.is_file())
    assert found["disk_bytes"] == pytest.approx(on_disk, rel=1)
    assert found["free_bytes"] > 0
    assert not (tmp_path / "out").exists()
