from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare_folders import write_activations
from strataprobe.compare.figures import layer_comparison_png
from strataprobe.compare.run import compare
from strataprobe.errors import OptionError, StageError
from strataprobe.layerfile import write_layer_file
from strataprobe.probes.run import train
from strataprobe.store import ActivationFolder

LAYER_KEYS = {
    "layer",
    "block_index",
    "readout",
    "cv_auc",
    "cv_auc_low",
    "cv_auc_high",
    "test_auc",
    "test_auc_low",
    "test_auc_high",
    "test_accuracy",
    "control_auc",
    "eval",
}
BASELINES = ["majority", "length", "tfidf", "lexicon", "layer_0", "zero_shot"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose concept appears at layer 3 of 6, with an audit."""
    run = tmp_path_factory.mktemp("run")
    train(write_activations(run / "activations"), run / "probes")
    (run / "data").mkdir()
    (run / "data" / "audit.json").write_text(json.dumps({"leak_auc": 0.71, "duplicates": 0, "by_class": {"a": [1, 2]}}))
    return run


@pytest.fixture(scope="module")
def document(trained: Path) -> dict[str, Any]:
    return compare([trained / "probes"], trained)


def finding(document: dict[str, Any], code: str) -> dict[str, str]:
    return next(f for f in document["findings"] if f["code"] == code)


def test_the_planted_layer_is_chosen_and_layers_before_it_are_not_tied(document: dict[str, Any]) -> None:
    assert document["best_layer"] >= 3
    assert document["tied_layers"] == [3, 4, 5, 6]
    assert document["primary_readout"] == "last"
    assert finding(document, "C001")["level"] == "ok"


def test_the_curve_has_every_layer_and_readout_with_intervals_in_order(document: dict[str, Any]) -> None:
    entries = document["layers"]
    assert [(e["readout"], e["layer"]) for e in entries] == [(r, k) for r in ("last", "mean") for k in range(1, 7)]
    for e in entries:
        assert e.keys() >= LAYER_KEYS
        assert e["block_index"] == e["layer"] - 1
        assert e["cv_auc_low"] <= e["cv_auc"] <= e["cv_auc_high"]
        assert e["test_auc_low"] <= e["test_auc"] <= e["test_auc_high"]
        assert abs(e["control_auc"] - 0.5) < 0.15
    assert [e["cv_auc"] > 0.8 for e in entries] == [e["layer"] >= 3 for e in entries]
    assert (entries[0]["cv_auc"], entries[0]["test_auc"], entries[0]["control_auc"]) == (0.5, 0.5, 0.5)


def test_text_from_elsewhere_has_its_auc_for_each_layer(document: dict[str, Any]) -> None:
    assert all(set(e["eval"]) == {"reviews"} for e in document["layers"])
    assert document["layers"][5]["eval"]["reviews"] > 0.85 > 0.7 > document["layers"][1]["eval"]["reviews"] - 0.1


def test_every_baseline_of_a_two_class_recipe_is_measured(document: dict[str, Any]) -> None:
    found = document["baselines"]
    assert list(found) == BASELINES
    assert found["majority"]["test_auc"] == 0.5
    assert 0.35 < found["layer_0"]["test_auc"] < 0.65
    for name in ("tfidf", "lexicon", "zero_shot"):
        assert 0.65 < found[name]["test_auc"] < 1.0
        assert found[name]["test_auc_low"] < found[name]["test_auc"] < found[name]["test_auc_high"]
    assert finding(document, "C004")["level"] in ("ok", "warning")


def test_ensembles_are_set_beside_the_best_layer(document: dict[str, Any]) -> None:
    best = next(e for e in document["layers"] if e["layer"] == document["best_layer"])
    found = dict(document["ensembles"])
    single = found.pop("single")
    assert set(found) == {"mean", "vote", "stacked", "greedy"}
    assert (single["layers"], single["test_auc"]) == ([best["layer"]], pytest.approx(best["test_auc"]))
    assert single["minus_best"] is None
    for name, entry in found.items():
        assert len(entry["layers"]) == entry["n_layers"]
        assert entry["n_layers"] == 3 or name == "greedy"
        assert entry["cost_blocks"] == max(entry["layers"])
        assert set(entry["layers"]) <= {3, 4, 5, 6}
        assert entry["test_auc"] - best["test_auc"] == pytest.approx(entry["minus_best"])
        assert entry["minus_best_low"] <= entry["minus_best"] <= entry["minus_best_high"]
        assert (entry["minus_best_p"] < 0.05) == (entry["minus_best_low"] > 0 or entry["minus_best_high"] < 0)
        assert 0 <= entry["test_ece"] < 0.2


def test_the_file_is_the_document_and_holds_finite_numbers_only(trained: Path, document: dict[str, Any]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads((trained / "comparison.json").read_text("utf-8"), parse_constant=refuse) == document


def test_the_same_inputs_and_seed_give_the_same_files_but_for_the_seconds(
    trained: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    again = compare([trained / "probes"], tmp_path / "again")
    assert {**again, "elapsed_s": 0} == {**document, "elapsed_s": 0}
    for name in ("sentiment_layer_comparison.png", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_nothing_is_computed_twice_and_a_missing_file_is_made_again(
    trained: Path, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare([trained / "probes"], trained) == document
    assert "up to date" in capsys.readouterr().err
    (trained / "report.html").unlink()
    compare([trained / "probes"], trained)
    assert (trained / "report.html").is_file()


def test_the_figure_is_a_png_of_print_quality(trained: Path, document: dict[str, Any]) -> None:
    data = (trained / "sentiment_layer_comparison.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) >= 2000
    assert layer_comparison_png(document) == data
    assert b"Software" not in data[:200]


def test_the_report_loads_nothing_and_escapes_the_texts(trained: Path, document: dict[str, Any]) -> None:
    html = (trained / "report.html").read_text("utf-8")
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", html) == []
    assert "<b>them</b>" not in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "leak auc" in html
    assert str(trained) not in html


def test_one_line_of_the_activations_changed_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    folder = ActivationFolder.open(trained / "activations")
    rows = {s: folder.read(2, s, "last") for s in ("train", "val", "test")}
    splits = {
        s: {"activations": {"last": r.activations, "mean": r.activations}, **r._asdict()}
        | {"activations": {"last": r.activations + 1, "mean": r.activations}}
        for s, r in rows.items()
    }
    write_layer_file(
        tmp_path / "run" / "activations" / "layer_2_activations.h5",
        splits=splits,
        attrs={"label_names": ["negative", "positive"], "readouts": ["last", "mean"]},
    )
    with pytest.raises(StageError, match=r"layer_2_activations\.h5 is not what .* was trained on"):
        compare([tmp_path / "run" / "probes"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_activations_are_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "probes", tmp_path / "probes")
    with pytest.raises(StageError, match="--activations DIR"):
        compare([tmp_path / "probes"], tmp_path)
    assert compare([tmp_path / "probes"], tmp_path, activations=[trained / "activations"])["best_layer"] is not None


def test_a_probe_set_beside_itself_is_refused_in_a_sentence(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is given twice"):
        compare([trained / "probes"] * 2, tmp_path)


def test_without_the_concept_there_is_no_best_layer_and_a_finding_says_why(tmp_path: Path) -> None:
    train(write_activations(tmp_path / "activations", starts_at=99), tmp_path / "probes")
    document = compare([tmp_path / "probes"], tmp_path)
    assert document["best_layer"] is None
    assert document["tied_layers"] == []
    assert finding(document, "C001")["level"] == "warning"
    assert "no best layer" in finding(document, "C001")["message"]
    assert "best_minus_this" not in document["baselines"]["tfidf"]
    assert "There is no best layer" in (tmp_path / "report.html").read_text("utf-8")


def test_three_classes_are_averaged_one_against_the_rest(tmp_path: Path) -> None:
    names = ("anger", "calm", "joy")
    kind: dict[str, Any] = {"class_names": names, "recipe_name": "moods", "strength": 3.0}
    folder = write_activations(tmp_path / "activations", n_layers=4, readouts=("mean",), evals=(), **kind)
    train(folder, tmp_path / "probes")
    document = compare([tmp_path / "probes"], tmp_path)
    assert document["best_layer"] in (3, 4)
    assert document["classes"] == list(names)
    best = document["layers"][document["best_layer"] - 1]
    assert best["cv_auc"] > 0.9
    assert best["test_accuracy"] > 0.7
    assert document["baselines"]["zero_shot"]["test_auc"] > 0.6
    assert document["baselines"]["lexicon"] == {
        "test_auc": None,
        "test_auc_low": None,
        "test_auc_high": None,
        "reason": "the recipe names no lexicon",
    }
    assert (tmp_path / "moods_layer_comparison.png").is_file()
    assert finding(document, "C010")["level"] == "skipped"


def test_an_encoder_without_texts_embeddings_or_answers_says_what_was_skipped(tmp_path: Path) -> None:
    lacking: dict[str, Any] = {"evals": (), "zero_shot": False, "layer_0": False, "recipe_name": ""}
    folder = write_activations(tmp_path / "activations", n_layers=3, readouts=("mean",), **lacking)
    (folder / "texts.jsonl").unlink()
    train(folder, tmp_path / "probes")
    document = compare([tmp_path / "probes"], tmp_path)
    skipped = {name: b["reason"] for name, b in document["baselines"].items() if b["test_auc"] is None}
    assert list(skipped) == BASELINES[1:]
    assert skipped["layer_0"] == "layer 0 was not captured"
    assert len([f for f in document["findings"] if f["code"] == "C008"]) == 5
    assert (tmp_path / "texts_layer_comparison.png").is_file()
    assert np.isfinite(document["elapsed_s"])


def test_layers_added_without_the_text_from_elsewhere_are_compared_all_the_same(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"n_layers": 4, "readouts": ("mean",), "layer_0": False}
    folder = write_activations(tmp_path / "activations", **kind)
    (folder / "layer_2_eval_reviews.h5").unlink()
    train(folder, tmp_path / "probes")
    document = compare([tmp_path / "probes"], tmp_path)
    assert [set(e["eval"]) for e in document["layers"]] == [{"reviews"}, set(), {"reviews"}, {"reviews"}]
    assert any("Layer 2 was captured without reviews" in f["message"] for f in document["findings"])
    assert (tmp_path / "report.html").read_text("utf-8").count(">not captured<") == 1


@pytest.mark.parametrize("damaged", [b"", b'{"format_version": 1, "cla', b"\xff\xfe", b"[]"])
def test_a_damaged_comparison_is_written_again(
    trained: Path, document: dict[str, Any], tmp_path: Path, damaged: bytes
) -> None:
    for name in ("comparison.json", "report.html", "sentiment_layer_comparison.png"):
        shutil.copy(trained / name, tmp_path / name)
    (tmp_path / "comparison.json").write_bytes(damaged)
    again = compare([trained / "probes"], tmp_path)
    assert {**again, "elapsed_s": 0} == {**document, "elapsed_s": 0}
    assert json.loads((tmp_path / "comparison.json").read_text("utf-8")) == again


@pytest.mark.parametrize("name", ["../escaped", "/{tmp}/escaped", "a/b", "..", "a\\b", "sentiment\n"])
def test_a_recipe_name_in_the_activations_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    kind: dict[str, Any] = {"n_layers": 2, "starts_at": 2, "readouts": ("mean",), "evals": (), "layer_0": False}
    folder = write_activations(
        tmp_path / "run" / "activations", n_groups=40, recipe_name=name.format(tmp=tmp_path), **kind
    )
    train(folder, tmp_path / "run" / "probes")
    before = sorted(tmp_path.rglob("*"))
    document = compare([tmp_path / "run" / "probes"], tmp_path / "run" / "out")
    assert document["recipe"] == "texts"
    written = {path.name for path in set(tmp_path.rglob("*")) - set(before)}
    assert written == {"out", "texts_layer_comparison.png", "comparison.json", "report.html"}
    assert len(list((tmp_path / "run" / "out").iterdir())) == 3
