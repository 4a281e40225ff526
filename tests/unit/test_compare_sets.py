from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from set_folders import WIDTH, unit, write_set
from strataprobe.compare.run import compare, open_sources
from strataprobe.compare.sets import unique_names
from strataprobe.compare.sets_overlap import N_DRAWS, cosine_bound, mean_size, overlap_of, ridge_weights, why_no_overlap
from strataprobe.errors import OptionError
from strataprobe.manifest import Manifest, record_files, write_manifest
from strataprobe.probes.families import get_family
from strataprobe.probes.joint import train_joint
from strataprobe.probes.solver import fit_logistic_path

SHARED = unit(1)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """mood peaks at layer 2, tone at layer 4, along one direction; the classes of topic at 1, 3 and 5, along others."""
    root = tmp_path_factory.mktemp("sets")
    two = np.stack([-SHARED, SHARED])
    others = unit(7, 4)
    others -= np.outer(others @ SHARED, SHARED)
    mood = [[s, s] for s in (0.3, 1.5, 0.5, 0.3, 0.3)]
    tone = [[s, s] for s in (0.0, 0.2, 0.5, 1.5, 0.2)]
    topic = [[3.0 * (layer == 1), 3.0 * (layer == 3), 3.0 * (layer == 5)] for layer in range(1, 6)]
    return {
        "mood": write_set(root / "mood", "mood", two, mood, seed=1),
        "tone": write_set(root / "tone", "tone", two, tone, seed=2),
        "topic": write_set(root / "topic", "topic", others[:3], topic, seed=3),
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def document(folders: dict[str, Path], out: Path) -> dict[str, Any]:
    return compare(list(folders.values()), out)


def findings(document: dict[str, Any], code: str) -> list[str]:
    return [f["message"] for f in document["side_by_side"]["findings"] if f["code"] == code]


def pair(document: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    return next(p for p in document["side_by_side"]["overlap"] if (p["a"], p["b"]) == (a, b))


def test_each_concept_peaks_where_it_was_planted(document: dict[str, Any]) -> None:
    curves = {c["name"]: c for c in document["side_by_side"]["curves"]}
    assert curves["mood"]["best_layer"] == 2
    assert curves["tone"]["best_layer"] == 4
    assert curves["mood"]["tied_layers"] == [2]
    assert curves["mood"]["best_depth"] == pytest.approx(0.4)
    assert document["side_by_side"]["axis"] == "layer"
    assert any("mood peaks at layer 2 of 5" in f for f in findings(document, "S001"))
    assert any("mood and tone are best at different layers" in f for f in findings(document, "S002"))


def test_each_class_of_a_recipe_peaks_where_it_was_planted(document: dict[str, Any]) -> None:
    rows = document["side_by_side"]["classes"]["topic"]
    assert [(r["class"], r["best_layer"]) for r in rows] == [("topic_0", 1), ("topic_1", 3), ("topic_2", 5)]
    for row in rows:
        assert row["tied_layers"] == [row["best_layer"]]
        assert row["aucs"][row["best_layer"] - 1] == row["cv_auc"] > 0.85
        assert row["cv_auc_low"] < row["cv_auc"] < row["cv_auc_high"]
    assert "from layer 1 to layer 5" in findings(document, "S003")[0]


def test_of_two_classes_the_second_stands_for_the_recipe(document: dict[str, Any]) -> None:
    (row,) = document["side_by_side"]["classes"]["mood"]
    curve = document["side_by_side"]["curves"][0]
    assert row["class"] == "mood_1"
    assert row["aucs"] == pytest.approx(curve["aucs"])
    assert (row["best_layer"], row["tied_layers"]) == (curve["best_layer"], curve["tied_layers"])


def test_recipes_that_share_a_direction_overlap(document: dict[str, Any]) -> None:
    found = pair(document, "mood", "tone")
    assert found["n_pairs_above"] == found["n_pairs"] == 1
    top = found["pairs"][0]
    assert top["above"]
    assert top["p"] < 0.01
    assert top["cosine"] > top["bound"] > 0
    assert any("mood and tone overlap" in f for f in findings(document, "S004"))


def test_recipes_with_directions_of_their_own_do_not_overlap(document: dict[str, Any]) -> None:
    for name in ("mood", "tone"):
        found = pair(document, name, "topic")
        assert found["n_pairs"] == 3
        assert found["n_pairs_above"] == 0
        assert max(found["highest"]) > min(found["chance_mean"])
    assert sum("do not overlap beyond chance" in f for f in findings(document, "S004")) == 2


def test_the_files_are_there_and_each_set_has_its_own(document: dict[str, Any], out: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads((out / "comparison.json").read_text("utf-8"), parse_constant=refuse) == document
    assert (out / "mood_tone_topic_layer_comparison.png").read_bytes().startswith(b"\x89PNG")
    for name in ("mood", "tone", "topic"):
        assert document["sets"][name] == json.loads((out / name / "comparison.json").read_text("utf-8"))
        assert (out / name / f"{name}_layer_comparison.png").is_file()
        assert (out / name / "report.html").is_file()
    assert (out / "report.html").is_file()


def test_nothing_is_computed_twice(
    folders: dict[str, Path], document: dict[str, Any], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(list(folders.values()), out) == document
    assert capsys.readouterr().err.count("up to date") == 4


def test_one_set_alone_is_the_same_comparison_in_the_folder_itself(
    folders: dict[str, Path], document: dict[str, Any], out: Path
) -> None:
    written = (out / "mood" / "comparison.json").stat().st_mtime_ns
    assert compare([folders["mood"]], out / "mood") == document["sets"]["mood"]
    assert (out / "mood" / "comparison.json").stat().st_mtime_ns == written
    names = sorted(p.name for p in (out / "mood").iterdir())
    assert names == ["comparison.json", "mood_layer_comparison.png", "report.html"]


def test_a_folder_given_twice_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is given twice: give each once") as caught:
        compare([folders["mood"], folders["mood"]], tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_comparison_of_a_run_is_not_overwritten(
    folders: dict[str, Path], document: dict[str, Any], out: Path
) -> None:
    with pytest.raises(OptionError, match="is the comparison of one set"):
        compare([folders["mood"], folders["tone"]], out / "mood")
    assert json.loads((out / "mood" / "comparison.json").read_text("utf-8")) == document["sets"]["mood"]


def test_activations_are_given_for_each_set_or_for_none(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="2 probes folders and 1 folders of activations"):
        compare([folders["mood"], folders["tone"]], tmp_path, activations=[folders["mood"].parent / "activations"])
    with pytest.raises(OptionError, match="nothing to compare"):
        compare([], tmp_path)


def test_two_sets_of_one_recipe_get_names_of_their_own() -> None:
    assert unique_names(["mood", "tone", "mood", "mood"]) == ["mood", "tone", "mood-2", "mood-3"]
    assert unique_names(["probes", "mood"]) == ["probes-2", "mood"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "other"}, "different models"),
        ({"readout": "last"}, "no readout in common"),
        ({"width": WIDTH + 2}, "different widths"),
        ({}, None),
    ],
)
def test_directions_that_cannot_be_compared_are_skipped_with_the_reason(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    width = change.get("width", WIDTH)
    directions = np.stack([-unit(5, width=width)[0], unit(5, width=width)[0]])
    options = {k: v for k, v in change.items() if k != "width"}
    other = write_set(tmp_path / "run", "mood", directions, [[2.0, 2.0]], n_groups=30, **options)
    found = why_no_overlap(open_sources(folders["mood"]), open_sources(other))
    assert found is None if reason is None else found is not None and reason in found


def test_a_network_has_no_direction(folders: dict[str, Path]) -> None:
    sources = open_sources(folders["mood"])
    network: Any = SimpleNamespace(first=SimpleNamespace(network=object()))
    other = replace(sources, probes=replace(sources.probes, sets=dict.fromkeys(sources.probes.sets, network)))
    assert "not linear" in str(why_no_overlap(sources, other))
    assert why_no_overlap(sources, sources) is None


def test_the_level_of_chance_of_class_means_follows_the_widest_features(tmp_path: Path) -> None:
    two = np.stack([-unit(5)[0], unit(5)[0]])
    sources = open_sources(write_set(tmp_path, "mood", two, [[1.0, 1.0]], n_groups=100, probe="mass-mean"))
    variance = np.geomspace(0.5, 4.0, WIDTH) ** 2
    expected = np.sqrt((variance**2).sum()) / variance.sum()
    assert overlap_of(sources, sources)["chance_mean"][0] == pytest.approx(mean_size(expected), rel=0.15)


def test_shuffled_ridge_probes_are_those_of_the_family() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 80)) * np.geomspace(0.1, 10.0, 80)).astype(np.float32)
    y = (rng.random((50, 3)) < 0.5).astype(np.float64)
    theirs = get_family("ridge", {"alphas": [10.0]}).refit(x, y, np.zeros((1, 3))).weight.astype(np.float64)
    (ours,) = ridge_weights((x - x.mean(axis=0)) / x.std(axis=0), y - y.mean(axis=0), [10.0])
    raw = (ours / x.std(axis=0)[:, None]).T
    cosine = (raw * theirs).sum(axis=1) / np.linalg.norm(raw, axis=1) / np.linalg.norm(theirs, axis=1)
    np.testing.assert_allclose(cosine, 1.0, atol=1e-5)


def test_two_models_are_laid_over_one_another_by_share_of_depth(
    folders: dict[str, Path], document: dict[str, Any], out: Path, tmp_path: Path
) -> None:
    shutil.copytree(out / "mood", tmp_path / "out" / "mood")
    two = np.stack([-SHARED, SHARED])
    other = write_set(tmp_path / "run", "mood", two, [[2.0, 2.0]] * 2, n_groups=40, model="other", suffix="It is")
    both = compare([folders["mood"], other], tmp_path / "out")
    side = both["side_by_side"]
    assert list(both["sets"]) == ["mood", "mood-2"]
    assert side["axis"] == "depth"
    assert [c["best_depth"] for c in side["curves"]] == [0.4, side["curves"][1]["best_layer"] / 2]
    assert "different models" in findings(both, "S004")[0]
    assert "layers of different models are not the same layers" in findings(both, "S002")[0]
    assert "in suffix ('' and 'It is') and model ('tiny' and 'other')" in findings(both, "S005")[0]


def test_the_level_of_chance_is_that_of_probes_trained_on_shuffled_labels() -> None:
    """Features of very different width that share factors: chance lies far above 1 / sqrt(D)."""
    rng, d, n = np.random.default_rng(0), 40, 300
    scale, mixing = np.geomspace(0.05, 5.0, d), rng.normal(size=(3, d))
    rms = []
    for made in ("solver", "closed form"):
        directions = []
        for seed in (1, 2):
            inner = np.random.default_rng(seed)
            x = ((inner.normal(size=(n, d)) + inner.normal(size=(n, 3)) @ mixing) * scale).astype(np.float32)
            y = (inner.random((n, N_DRAWS)) < 0.5).astype(np.float64)
            if made == "solver":
                raw = np.asarray(fit_logistic_path(x, y, [0.1]).weight[0], dtype=np.float64)
            else:
                spread = x.std(axis=0)
                z = (x - x.mean(axis=0)) / spread
                (weights,) = ridge_weights(z, y - y.mean(axis=0), [4 / 0.1])
                raw = (weights / spread[:, None]).T
            directions.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
        rms.append(float(np.sqrt(np.mean((directions[0] @ directions[1].T) ** 2))))
    assert rms[0] > 1.5 / np.sqrt(d)
    assert rms[1] == pytest.approx(rms[0], rel=0.15)


def test_the_bound_is_what_unrelated_directions_exceed_once_in_twenty_comparisons() -> None:
    rng, d, n_tests = np.random.default_rng(0), 30, 10
    rows = rng.normal(size=(2, 4000 * n_tests, d))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    size = np.abs((rows[0] * rows[1]).sum(axis=1)).reshape(4000, n_tests)
    bound = cosine_bound(d**-0.5, n_tests)
    assert (size.max(axis=1) > bound).mean() == pytest.approx(0.05, abs=0.012)
    assert size.mean() == pytest.approx(mean_size(d**-0.5), rel=0.02)


def test_two_sets_of_one_model_share_its_layers_though_one_was_captured_less_far(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    two = np.stack([-SHARED, SHARED])
    short = write_set(tmp_path / "run", "calm", two, [[2.0, 2.0]] * 2, n_groups=40)
    both = compare([folders["mood"], short], tmp_path / "out")
    side = both["side_by_side"]
    assert (side["axis"], [c["n_layers"] for c in side["curves"]]) == ("layer", [5, 5])
    assert [row["best_depth"] * 5 for row in side["classes"]["calm"]] == [side["curves"][1]["best_layer"]]
    assert "different models" not in findings(both, "S002")[0]


def test_probes_that_were_trained_jointly_are_not_said_to_overlap(folders: dict[str, Path], tmp_path: Path) -> None:
    runs = [folders[name].parent / "activations" for name in ("mood", "tone")]
    train_joint(runs, tmp_path, layers=[4], folds=0)
    mood, tone = (open_sources(tmp_path / n, run) for n, run in zip(("mood", "tone"), runs, strict=True))
    assert "trained jointly" in str(why_no_overlap(mood, tone))
    assert why_no_overlap(mood, open_sources(folders["tone"])) is None


def test_the_last_layer_captured_is_not_called_the_last_of_a_deeper_model(
    folders: dict[str, Path], document: dict[str, Any], out: Path, tmp_path: Path
) -> None:
    shutil.copytree(out / "mood", tmp_path / "out" / "mood")
    two = np.stack([-SHARED, SHARED])
    calm = write_set(tmp_path / "run", "calm", two, [[2.0, 2.0]] * 4, n_groups=40)
    activations = tmp_path / "run" / "activations"
    recorded = Manifest(stage="capture", config={}, files=record_files(activations), details={"n_layers": 6})
    write_manifest(activations, recorded)
    both = compare([folders["mood"], calm], tmp_path / "out")
    assert [b["band"] for b in document["sets"]["mood"]["bands"]] == ["early", "middle", "late", "final"]
    assert [b["band"] for b in both["sets"]["calm"]["bands"]] == ["early", "middle"]
    assert [c["n_layers"] for c in both["side_by_side"]["curves"]] == [6, 6]
