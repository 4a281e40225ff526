from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strataprobe.cli.app import app
from strataprobe.compare.published import read_published
from strataprobe.compare.run import compare
from strataprobe.compare.sets_findings import sets_findings
from strataprobe.errors import DataError

TABLE = (
    "layer\tcog_auc\tsent_r2\tsent_sign_acc\tsent_mean_pred\n"
    "1\t0.85\t0.60\t0.88\t-0.1\n2\t0.90\t0.80\t0.97\t0.2\n3\t0.95\t-0.5\t0.70\t0.3\n4\t0.90\t-203.18\t0.52\t14\n"
)


def table(tmp_path: Path, text: str = TABLE) -> Path:
    path = tmp_path / "theirs.tsv"
    path.write_text(text, "utf-8")
    return path


def metrics_folder(root: Path) -> Path:
    """Folders layer_9 and layer_26 of class metrics, and files of a continuous probe beside them."""
    for block, aucs in ((9, (0.99, 0.80)), (26, (0.90, 0.85))):
        actions = [
            {"action": name, "auc_roc": v} for name, v in zip(("zooming_out", "meta_awareness"), aucs, strict=True)
        ]
        (root / f"layer_{block}").mkdir(parents=True)
        values = {"average_auc_roc": sum(aucs) / 2, "average_f1": 0.5, "per_action_metrics": actions}
        (root / f"layer_{block}" / "aggregate_metrics.json").write_text(json.dumps(values))
    (root / "sentiment_regression").mkdir()
    for block, r2 in ((7, 0.84), (28, -203.0)):
        values = {"r2": r2, "accuracy": 0.97 if r2 > 0 else 0.52, "history": {}}
        (root / "sentiment_regression" / f"layer_{block}_metrics.json").write_text(json.dumps(values))
    return root


def curve(published: dict[str, Any], concept: str, metric: str) -> dict[str, Any]:
    return next(c for c in published["curves"] if (c["concept"], c["metric"]) == (concept, metric))


def test_a_published_number_is_a_block_index_and_our_layer_is_one_more(tmp_path: Path) -> None:
    found = curve(read_published(table(tmp_path)), "cognitive actions", "auc")
    assert found["block_indexes"] == [1, 2, 3, 4]
    assert found["layers"] == [2, 3, 4, 5]
    assert (found["best_block_index"], found["best_layer"], found["best_value"]) == (3, 4, 0.95)
    assert found["values"] == [0.85, 0.90, 0.95, 0.90]


def test_metrics_have_the_best_layer_that_makes_sense_for_them(tmp_path: Path) -> None:
    found = read_published(table(tmp_path, TABLE.replace("sent_r2", "sent_mse")))
    assert curve(found, "sentiment", "mse")["best_block_index"] == 4
    assert curve(found, "sentiment", "sign_acc")["best_block_index"] == 2
    assert curve(found, "sentiment", "mean_pred")["best_layer"] is None


def test_folders_of_metrics_give_each_class_too(tmp_path: Path) -> None:
    found = read_published(metrics_folder(tmp_path / "theirs"))
    assert found["name"] == "theirs"
    assert curve(found, "cognitive actions", "auc")["block_indexes"] == [9, 26]
    assert curve(found, "sentiment", "r2")["values"] == [0.84, -203.0]
    assert curve(found, "sentiment", "sign_acc")["best_block_index"] == 7
    assert found["classes"]["layers"] == [10, 27]
    assert [(r["class"], r["best_layer"], r["aucs"]) for r in found["classes"]["classes"]] == [
        ("meta_awareness", 27, [0.80, 0.85]),
        ("zooming_out", 10, [0.99, 0.90]),
    ]
    alone = read_published(tmp_path / "theirs" / "layer_9")
    assert curve(alone, "cognitive actions", "auc")["layers"] == [10]


def test_published_figures_alone_make_a_report(tmp_path: Path) -> None:
    document = compare([], tmp_path / "out", published=[table(tmp_path), metrics_folder(tmp_path / "folders")])
    assert document["sets"] == {}
    messages = [f["message"] for f in document["side_by_side"]["findings"]]
    assert any("mean AUC of cognitive actions peaks at block index 3 (our layer 4), .950" in m for m in messages)
    assert any("R² of sentiment peaks at block index 2" in m for m in messages)
    collapse = next(m for m in messages if "below 0" in m)
    assert "at 2 of 4 layers (block indexes 3-4), and -203.2 at 4" in collapse
    assert "mean AUC of cognitive actions is .900" in collapse
    assert (tmp_path / "out" / "theirs_folders_layer_comparison.png").stat().st_size > 50_000
    assert (tmp_path / "out" / "report.html").is_file()
    assert compare([], tmp_path / "out", published=[tmp_path / "theirs.tsv", tmp_path / "folders"]) == document


def test_a_fit_that_holds_is_not_said_to_collapse(tmp_path: Path) -> None:
    path = table(tmp_path, "layer\tsent_r2\n1\t0.5\n2\t0.6\n")
    findings = compare([], tmp_path / "out", published=[path])["side_by_side"]["findings"]
    assert [f["code"] for f in findings] == ["S006"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1 is not the header"),
        ("depth\tauc\n1\t0.5\n", "line 1 is not the header"),
        ("layer\tauc\tauc\n1\t0.5\t0.6\n", "line 1 is not the header"),
        ("layer\tauc\n", "no layer below it"),
        ("layer\tauc\n1\t0.5\n2\n", "line 3 has 1 cells, the header has 2"),
        ("layer\tauc\n1\t0.5\n1\t0.6\n", "line 3: '1' is not a block index, or one given twice"),
        ("layer\tauc\n1.5\t0.5\n", "line 2: '1.5' is not a block index"),
        ("layer\tauc\n1\t0.5x\n", "line 2, column auc: '0.5x' is not a finite number"),
        ("layer\tauc\n1\tnan\n", "line 2, column auc: 'nan' is not a finite number"),
        ("layer\tauc\n34\t0.5\n", "block index 34, and a model of 34 blocks ends at 33"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(DataError, match=r"theirs\.tsv") as caught:
        read_published(table(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_cell_is_a_layer_without_that_metric(tmp_path: Path) -> None:
    found = read_published(table(tmp_path, "layer\tauc\tf1\n1\t0.5\t\n2\t0.6\t0.7\n"))
    assert curve(found, "", "f1")["layers"] == [3]
    assert curve(found, "", "auc")["layers"] == [2, 3]


def test_bad_files_and_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut" / "layer_1").mkdir(parents=True)
    (tmp_path / "cut" / "layer_1" / "aggregate_metrics.json").write_text('{"average_auc_roc": 0.')
    (tmp_path / "ours" / "layer_1").mkdir(parents=True)
    own = {"average_auc_roc": 0.9, "cv_auc": 0.9, "n_train": 10}
    (tmp_path / "ours" / "layer_1" / "aggregate_metrics.json").write_text(json.dumps(own))
    (tmp_path / "bytes.tsv").write_bytes(b"layer\tauc\n\xff\xfe")
    for name, sentence in (
        ("absent.tsv", "cannot be read"),
        ("empty", "holds no layer_K/aggregate_metrics.json"),
        ("cut", "is not JSON"),
        ("ours", "give its folder with --probes"),
        ("bytes.tsv", "is not UTF-8"),
    ):
        with pytest.raises(DataError, match=sentence) as caught:
            read_published(tmp_path / name)
        assert name.split(".")[0] in str(caught.value)


def test_the_command_prints_where_published_curves_peak(tmp_path: Path) -> None:
    asked = ["compare", "--published", str(table(tmp_path)), "--out", str(tmp_path / "out"), "--published-blocks", "6"]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "cognitive actions" in result.output
    assert "S007 theirs: the R² of sentiment is below 0" in result.output
    assert json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))["config"]["blocks"] == [6]


@pytest.mark.parametrize(
    ("tied", "caveat"), [([2], "is better than every other"), ([1, 2, 3], "cannot be told from layers 1, 3")]
)
def test_our_peak_beside_the_published_one_is_no_surer_than_alone(tmp_path: Path, tied: list[int], caveat: str) -> None:
    ours = {
        "name": "ours", "recipe": "cognitive_actions", "best_layer": 2, "best_depth": 0.5, "n_layers": 4,
        "tied_layers": tied, "layers": [1, 2, 3, 4], "measured_in": "cross-validation",
        "cv_auc": 0.9, "cv_auc_low": 0.8, "cv_auc_high": 0.95,
    }  # fmt: skip
    side = {"curves": [ours], "classes": {}, "overlap": [], "published": [read_published(table(tmp_path))]}
    said = {f["code"]: f["message"] for f in sets_findings(side)}
    assert caveat in said["S001"]
    assert f"cognitive actions: ours peaks at layer 2 of 4 (depth 0.50), a layer that {caveat}; the" in said["S008"]
