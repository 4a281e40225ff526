"""Layer files: written whole, read one layer and split at a time, and refused when damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strataprobe.errors import OptionError, StageError
from strataprobe.layerfile import write_layer_file
from strataprobe.store import ActivationFolder, Activations, parse_layers, span


def columns(n: int, offset: float = 0.0, **more: Any) -> dict[str, Any]:
    array = np.arange(n * 3, dtype=np.float32).reshape(n, 3) + offset
    return {
        "activations": {"last": array, "mean": -array},
        "labels": [i % 3 - 1 for i in range(n)],
        "ids": [f"é{i}" for i in range(n)],
        "groups": [f"שלום{i}" for i in range(n)],
        **more,
    }


ATTRS = {"label_names": ["a", "b"], "readouts": ["last", "mean"], "model_name": "m", "suffix": "\n\n🙂", "layer": 1}


def folder(path: Path, layers: tuple[int, ...] = (1, 2)) -> Path:
    path.mkdir(exist_ok=True)
    for k in layers:
        splits = {"train": columns(5, k), "val": columns(2, 10 * k), "test": columns(0)}
        write_layer_file(path / f"layer_{k}_activations.h5", splits=splits, attrs=ATTRS)
    return path


def brije(path: Path, layers: tuple[int, ...] = (0, 9)) -> Path:
    """A folder as others write it: activations and labels, and nothing else."""
    path.mkdir()
    for k in layers:
        with h5py.File(path / f"layer_{k}_activations.h5", "w") as file:
            for split, n in (("train", 4), ("val", 2), ("test", 2)):
                file.create_dataset(f"{split}/activations", data=np.full((n, 3), k, dtype=np.float16))
                file.create_dataset(f"{split}/labels", data=np.arange(n, dtype=np.int32) % 2)
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    read = ActivationFolder.open(folder(tmp_path / "a"))
    assert (read.layers, read.readouts, read.class_names, read.d_model) == ([1, 2], ["last", "mean"], ["a", "b"], 3)
    assert (read.info["model_name"], read.info["suffix"], read.info["recipe_name"]) == ("m", "\n\n🙂", "")
    for split, n in (("train", 5), ("val", 2), ("test", 0)):
        rows = read.read(2, split)
        expected = columns(n, 2 if split == "train" else 20)
        np.testing.assert_array_equal(rows.activations, expected["activations"]["last"])
        np.testing.assert_array_equal(read.read(2, split, "mean").activations, expected["activations"]["mean"])
        assert rows.labels.tolist() == expected["labels"]
        assert (rows.ids, rows.groups, rows.targets) == (expected["ids"], expected["groups"], None)
        assert (rows.activations.dtype, rows.labels.dtype) == (np.float32, np.int64)
    assert [read.block_index(k) for k in (0, 1, 34)] == [-1, 0, 33]


def test_continuous_targets_are_kept(tmp_path: Path) -> None:
    splits = {"train": columns(3, targets=[0.5, np.nan, -1])}
    write_layer_file(tmp_path / "layer_1_activations.h5", splits=splits, attrs=ATTRS)
    targets = ActivationFolder.open(tmp_path).read(1, "train").targets
    assert targets is not None
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, np.array([0.5, np.nan, -1], dtype=np.float32))


def test_activations_labels_and_the_file_name_are_enough(tmp_path: Path) -> None:
    read = ActivationFolder.open(brije(tmp_path / "b"))
    assert (read.layers, read.class_names, read.readouts) == ([0, 9], ["class_0", "class_1"], ["last"])
    rows = read.read(9, "train")
    assert rows.activations.tolist() == [[9.0] * 3] * 4
    assert rows.activations.dtype == np.float32
    assert rows.labels.tolist() == [0, 1, 0, 1]
    assert len(set(rows.ids)) == 4
    assert rows.groups == rows.ids
    assert set(rows.ids).isdisjoint(read.read(9, "val").ids)
    assert read.texts() == []
    assert read.manifest is None


def test_brijes_file_number_is_a_block_index(tmp_path: Path) -> None:
    read = ActivationFolder.open(brije(tmp_path / "b"), numbering="brije")
    assert read.layers == [1, 10]
    assert read.read(10, "train").activations[0, 0] == 9.0
    assert read.block_index(10) == 9


def test_further_things_in_a_file_do_not_matter(tmp_path: Path) -> None:
    path = brije(tmp_path / "b")
    for file in path.iterdir():
        with h5py.File(file, "a") as opened:
            opened.create_dataset("created_by", data="someone")
            opened.create_group("notes")
    assert ActivationFolder.open(path).class_names == ["class_0", "class_1"]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "elsewhere")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    changed = {"train": columns(5, 1.5), "val": columns(2, 10), "test": columns(0)}
    write_layer_file(two / "layer_1_activations.h5", splits=changed, attrs=ATTRS)
    assert (one / "layer_1_activations.h5").read_bytes() != (two / "layer_1_activations.h5").read_bytes()


def test_a_write_that_fails_is_a_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path / "a") / "layer_1_activations.h5"
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StageError, match=r"could not be written: .*free some space"):
        write_layer_file(path, splits={"train": columns(9)}, attrs=ATTRS)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["layer_1_activations.h5", "layer_2_activations.h5"]


def test_layers_splits_and_readouts_that_are_not_there_are_named(tmp_path: Path) -> None:
    read = ActivationFolder.open(folder(tmp_path / "a"))
    with pytest.raises(StageError, match=r"layer 7 is not in .*; there are layers 1-2"):
        read.read(7, "train")
    with pytest.raises(StageError, match=r"readout 'first' is not in .*; there are: last, mean"):
        read.read(1, "train", "first")
    with pytest.raises(StageError, match="has no dev/activations"):
        read.read(1, "dev")
    with pytest.raises(StageError, match=r"layer_1_eval_imdb.h5 is missing: run capture with --eval imdb=FILE"):
        read.read_eval(1, "imdb")
    assert read.eval_names == []


@pytest.mark.parametrize("left", [0, 10, 600, -100])
def test_a_file_cut_short_is_a_sentence(left: int, tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    file = path / "layer_2_activations.h5"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(StageError, match=r"layer_2_activations.h5 cannot be opened .*damaged or cut short"):
        ActivationFolder.open(path)
    file.unlink()
    assert ActivationFolder.open(path).layers == [1]


def test_folders_without_layer_files_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="is not a folder of activations"):
        ActivationFolder.open(tmp_path / "none")
    with pytest.raises(StageError, match=r"holds no layer_K_activations.h5 files"):
        ActivationFolder.open(tmp_path)
    with h5py.File(tmp_path / "layer_1_activations.h5", "w") as file:
        file.create_dataset("x", data=1)
    with pytest.raises(StageError, match="has no train/activations and train/labels"):
        ActivationFolder.open(tmp_path)


def test_rows_that_do_not_match_their_labels_are_a_sentence(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "layer_1_activations.h5", "w") as file:
        file.create_dataset("train/activations", data=np.zeros((3, 2), np.float32))
        file.create_dataset("train/labels", data=np.zeros(4, np.int64))
    with pytest.raises(StageError, match=r"train/activations has shape \(3, 2\), \(4, D\) was expected"):
        ActivationFolder.open(tmp_path).read(1, "train")


@given(layers=st.sets(st.integers(0, 34), min_size=1))
def test_layers_in_short_form_are_read_back(layers: set[int]) -> None:
    assert parse_layers(span(layers), 34) == sorted(layers)
    assert parse_layers(layers, 34) == sorted(layers)


def test_all_layers_are_one_to_the_last() -> None:
    assert parse_layers("all", 3) == parse_layers(None, 3) == [1, 2, 3]
    assert parse_layers(2, 3) == [2]
    assert parse_layers(" 1 - 2, 3,3 ", 3) == [1, 2, 3]
    assert span([]) == "none"


@pytest.mark.parametrize("bad", ["", "1,,2", "a", "3-1", "1-", "-1", "1..3", "4", "0-9", [4], [-1], []])
def test_layers_that_cannot_be_read_or_are_not_there_are_refused(bad: Any) -> None:
    with pytest.raises(OptionError):
        parse_layers(bad, 3)


def test_activations_in_memory_are_given_by_layer_and_readout() -> None:
    arrays = {(r, k): np.full((2, 3), k, np.float32) for r, k in (("last", 1), ("mean", 1), ("mean", 0))}
    acts = Activations(arrays, ["last", "mean"], {})
    assert (acts.layers, acts.readout, acts.n_texts) == ([0, 1], "last", 2)
    assert acts.layer(0)[0, 0] == acts.layer(0, "last")[0, 0] == 0
    with pytest.raises(OptionError, match="layer 2 was not captured; there are: 0-1"):
        acts.layer(2)
    with pytest.raises(OptionError, match="readout 'first' was not captured; there are: last, mean"):
        acts.layer(1, "first")
    assert repr(acts) == "Activations(2 texts, layers 0-1, readouts last, mean)"
