"""Layer files byte by byte: what is in them, that they are always the same, and that a full disk cannot crash the writer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import strataprobe.layerfile as layerfile
from strataprobe.capture.shardfile import read_header, read_rows, write_shard
from strataprobe.errors import StageError
from strataprobe.layerfile import write_layer_file

ATTRS = {"model_name": "m", "layer": 3, "readouts": ["last", "mean"], "label_names": ["a", "ü"], "suffix": "\n🙂"}


def rows_of(n: int, width: int = 5, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "activations": {r: rng.normal(size=(n, width)).astype(np.float32) for r in ("last", "mean")},
        "labels": rng.integers(-1, 2, n),
        "ids": [f"é-{i}" * (1 + i % 4) for i in range(n)],
        "groups": [f"g{i // 3}" for i in range(n)],
        "targets": rng.normal(size=n).astype(np.float32),
    }


def written(path: Path, sizes: tuple[int, ...] = (40, 3, 0), width: int = 5) -> tuple[Path, dict[str, dict[str, Any]]]:
    splits = {s: rows_of(n, width, n) for s, n in zip(("train", "val", "test"), sizes, strict=True)}
    write_layer_file(path, splits=splits, attrs=ATTRS)
    return path, splits


@pytest.mark.parametrize("sizes", [(40, 3, 0), (0, 0, 0), (1, 1, 1), (20_000, 1, 300)])
def test_h5py_reads_exactly_what_was_written_from_contiguous_data_sets(sizes: tuple[int, ...], tmp_path: Path) -> None:
    path, splits = written(tmp_path / "layer.h5", sizes)
    with h5py.File(path) as file:
        assert set(file) == set(splits)
        assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.attrs.items()} == ATTRS
        for split, columns in splits.items():
            group = file[split]
            np.testing.assert_array_equal(group["activations"][:], columns["activations"]["last"])
            np.testing.assert_array_equal(group["activations_mean"][:], columns["activations"]["mean"])
            np.testing.assert_array_equal(group["labels"][:], columns["labels"])
            np.testing.assert_array_equal(group["targets"][:], columns["targets"])
            assert group["ids"].asstr()[:].tolist() == columns["ids"]
            assert group["groups"].asstr()[:].tolist() == columns["groups"]
            assert {group[name].chunks for name in group} == {None}
            assert [group[n].dtype for n in ("activations", "labels", "targets")] == [np.float32, np.int64, np.float32]
    assert [p.name for p in tmp_path.iterdir()] == ["layer.h5"]


def test_numbers_lie_in_the_file_as_they_are(tmp_path: Path) -> None:
    path, splits = written(tmp_path / "layer.h5")
    with h5py.File(path) as file:
        offset = file["train/activations"].id.get_offset()
    expected = splits["train"]["activations"]["last"].tobytes()
    assert path.read_bytes()[offset : offset + len(expected)] == expected


def test_a_file_written_a_second_later_is_the_same(tmp_path: Path) -> None:
    first, _ = written(tmp_path / "one.h5")
    time.sleep(1.05)  # the library's own times count whole seconds
    second, _ = written(tmp_path / "two.h5")
    assert second.read_bytes() == first.read_bytes()
    other, _ = written(tmp_path / "three.h5", (39, 3, 0))
    assert other.read_bytes() != first.read_bytes()


def test_rows_are_fetched_a_slab_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fetched:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.slices = array, array.shape, list[slice]()

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.slices.append(rows)
            return self.array[rows]

    whole, _ = written(tmp_path / "whole.h5")
    monkeypatch.setattr(layerfile, "SLAB_BYTES", 7 * 5 * 4)
    splits = {s: rows_of(n, 5, n) for s, n in (("train", 40), ("val", 3), ("test", 0))}
    fetched = Fetched(splits["train"]["activations"]["mean"])
    splits["train"]["activations"]["mean"] = fetched
    write_layer_file(tmp_path / "slabs.h5", splits=splits, attrs=ATTRS)
    assert fetched.slices == [slice(a, min(a + 7, 40)) for a in range(0, 40, 7)]
    assert (tmp_path / "slabs.h5").read_bytes() == whole.read_bytes()


class Failing:
    """An open file whose writes fail, all but the first few; the rest of it works, as on a full disk."""

    def __init__(self, file: Any, good: int) -> None:
        self.file, self.good, self.n_writes = file, good, 0

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        self.n_writes += 1
        if self.n_writes > self.good:
            full()
        return int(self.file.write(data[:5000]))  # as little as a system may take at a time


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_whichever_write_fails_it_is_a_sentence_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerfile._Pages, "_PAGE_BYTES", 4096)
    monkeypatch.setattr(layerfile._Pages, "_MOST_PAGES", 2)
    path, splits = written(tmp_path / "layer.h5", (300, 3, 0))
    before, real, opened = path.read_bytes(), Path.open, list[Failing]()

    def attempt(good: int) -> None:
        def opening(self: Path, *arguments: Any) -> Any:
            opened.append(Failing(real(self, *arguments), good))
            return opened[-1]

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", opening)
            write_layer_file(path, splits=splits, attrs=ATTRS)

    attempt(10**6)
    n_writes = opened[0].n_writes
    assert n_writes > 20
    assert path.read_bytes() == before
    for good in range(n_writes):
        with pytest.raises(StageError, match=r"layer.h5 could not be written: No space left on device; free some"):
            attempt(good)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["layer.h5"]


@pytest.mark.parametrize("wrong", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_end_is_a_sentence_too(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"os.{wrong}", full)
    with pytest.raises(StageError, match=r"layer.h5 could not be written: No space left on device; free some"):
        written(tmp_path / "layer.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    import safetensors.numpy

    rng = np.random.default_rng(0)
    arrays = {f"mean.{k}": rng.normal(size=(4, 3)).astype(np.float32) for k in range(3)}
    arrays["wide"] = rng.normal(size=(2, 6)).astype(np.float32)[:, ::2]
    write_shard(tmp_path / "x.safetensors", arrays)
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("width", [3, 6000])
@pytest.mark.parametrize("rows", [[0], [7], [0, 1, 2], [2, 3, 6, 7], list(range(8)), [0, 7]])
def test_any_rows_of_a_shard_are_read(rows: list[int], width: int, tmp_path: Path) -> None:
    arrays = {name: np.random.default_rng(i).normal(size=(8, width)).astype(np.float32) for i, name in enumerate("ab")}
    path = tmp_path / "x.safetensors"
    write_shard(path, arrays)
    for name, place in read_header(path).items():
        assert place.shape == (8, width)
        np.testing.assert_array_equal(read_rows(path, place.begin, width, np.array(rows)), arrays[name][rows])
    path.write_bytes(path.read_bytes()[:-1])
    if rows[-1] == 7:
        with pytest.raises(OSError, match="cut short"):
            read_rows(path, place.begin, width, np.array(rows))


@pytest.mark.parametrize("damage", [b"", b"\x05", b"\xff" * 40, b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"])
def test_a_shard_whose_header_cannot_be_read_is_an_error(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"header|cut short"):
        read_header(path)
