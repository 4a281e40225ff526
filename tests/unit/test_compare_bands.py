from __future__ import annotations

from pathlib import Path
from typing import Any

from stage_runs import stage
from strataprobe.compare.bands import BANDS, band_entries, band_of
from strataprobe.store import ActivationFolder


def test_thirds_of_the_blocks_are_early_middle_and_late_and_the_last_block_is_final() -> None:
    bands = [band_of(k, 34) for k in range(1, 35)]
    assert [bands.count(b) for b in BANDS] == [11, 11, 11, 1]
    assert bands == sorted(bands, key=BANDS.index)
    assert bands[-1] == "final"


def test_small_models_have_bands_too() -> None:
    assert [band_of(k, 6) for k in range(1, 7)] == ["early", "early", "middle", "middle", "late", "final"]
    assert band_of(1, 1) == "final"


def entry(layer: int, value: float | None, n_layers: int = 6) -> dict[str, Any]:
    return {"layer": layer, "cv_auc": value, "band": band_of(layer, n_layers)}


def test_each_band_has_its_best_layer_the_earliest_of_equals_and_its_mean() -> None:
    found = band_entries([entry(2, 0.7), entry(1, 0.5), entry(3, 0.9), entry(4, 0.9), entry(6, 0.6)])
    assert [b["band"] for b in found] == ["early", "middle", "final"]
    assert found[0] == {"band": "early", "layers": [1, 2], "best_layer": 2, "best_cv_auc": 0.7, "mean_cv_auc": 0.6}
    assert (found[1]["best_layer"], found[1]["layers"]) == (3, [3, 4])


def test_a_band_without_an_auc_has_no_best_layer() -> None:
    assert band_entries([entry(1, None)])[0] == {
        "band": "early",
        "layers": [1],
        "best_layer": None,
        "best_cv_auc": None,
        "mean_cv_auc": None,
    }


def test_a_folder_of_some_layers_tells_how_many_blocks_the_model_has(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    stage(texts, llama_folder, tmp_path / "activations", layers="2-4")
    folder = ActivationFolder.open(tmp_path / "activations")
    assert (folder.layers[-1], folder.n_layers) == (4, 6)
    (tmp_path / "activations" / "manifest.json").unlink()
    assert ActivationFolder.open(tmp_path / "activations").n_layers == 4
