"""The files of an activations folder, opened with h5py and json alone, are what other tools are promised."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from plain_hook import SUFFIX
from strataprobe.capture.run import capture_stage

N_LAYERS = 6
TEXTS = [
    ("It rained the whole night.", "positive"),
    ("Crème brûlée 🙂 – שלום", "negative"),
    ("No label here, and no score.", None),
    ("I walked home in the rain.", "positive"),
    ("The train was late again.", "negative"),
    ("We sat by the window.", "positive"),
    ("The soup was cold.", "negative"),
    ("They gave my seat away.", "negative"),
    ("My sister called me.", "positive"),
    ("The light was still on.", "positive"),
]


@pytest.fixture(scope="module")
def folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("contract")
    rows: list[dict[str, Any]] = []
    for i, (text, label) in enumerate(TEXTS):
        row: dict[str, Any] = {"id": f"é-{i}", "text": text, "group": f"g{i // 2}ü"}
        if label:
            row |= {"label": label, "score": i / 2}
        rows.append(row)
    (work / "texts.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    (work / "imdb.jsonl").write_text('{"text": "A fine film.", "label": "positive"}\n{"text": "Dull."}\n', "utf-8")
    capture_stage(
        work / "texts.jsonl",
        llama_folder,
        work / "activations",
        suffix=SUFFIX,
        prefix="Text: ",
        evals={"imdb": work / "imdb.jsonl"},
    )
    return work / "activations"


def layer_files(folder: Path) -> list[tuple[int, h5py.File]]:
    return [(k, h5py.File(folder / f"layer_{k}_activations.h5")) for k in range(N_LAYERS + 1)]


def test_there_is_one_file_a_layer_and_eval_set_and_the_texts_and_a_manifest_beside_them(folder: Path) -> None:
    expected = {f"layer_{k}_activations.h5" for k in range(N_LAYERS + 1)}
    expected |= {f"layer_{k}_eval_imdb.h5" for k in range(N_LAYERS + 1)}
    assert {p.name for p in folder.iterdir()} == expected | {"texts.jsonl", "manifest.json"}


def test_each_split_holds_activations_labels_ids_groups_and_targets_of_the_promised_types(folder: Path) -> None:
    n_rows = 0
    for k, file in layer_files(folder):
        assert set(file) == {"train", "val", "test"}
        for split in file:
            group = file[split]
            n = len(group["labels"])
            names = {"activations", "labels", "ids", "groups", "targets"} | ({"activations_mean"} if k else set())
            assert set(group) == names
            assert (group["activations"].shape, group["activations"].dtype) == ((n, 32), np.float32)
            if k:
                assert (group["activations_mean"].shape, group["activations_mean"].dtype) == ((n, 32), np.float32)
                assert n == 0 or not np.array_equal(group["activations"][:], group["activations_mean"][:])
            assert group["activations"].chunks is None
            assert group["labels"].dtype == np.int64
            assert group["targets"].dtype == np.float32
            for name in ("ids", "groups"):
                kind = h5py.check_string_dtype(group[name].dtype)
                assert (kind.encoding, kind.length, len(group[name])) == ("utf-8", None, n)
            n_rows += n if k == 1 else 0
    assert n_rows == len(TEXTS)


def test_the_attributes_say_what_was_read_and_how(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for k, file in layer_files(folder):
        attrs = dict(file.attrs)
        assert (attrs["layer"], attrs["block_index"], attrs["format_version"]) == (k, k - 1, 1)
        assert attrs["site"] == "resid_post"
        assert attrs["model_name"] == "tiny-llama"
        assert attrs["model_revision"] == manifest["model"]["revision"]
        assert (attrs["prefix"], attrs["suffix"], attrs["template"]) == ("Text: ", SUFFIX, "none")
        assert attrs["dtype"] == "float32"
        assert list(attrs["label_names"]) == ["negative", "positive"]
        assert list(attrs["readouts"]) == (["last", "mean"] if k else ["mean"])


def test_labels_ids_groups_and_targets_are_those_of_the_texts(folder: Path) -> None:
    rows = {row["id"]: row for row in texts(folder) if not row["split"].startswith("eval_")}
    for _, file in layer_files(folder):
        for split in file:
            group = file[split]
            ids = group["ids"].asstr()[:].tolist()
            assert ids == [i for i in rows if rows[i]["split"] == split]
            assert group["groups"].asstr()[:].tolist() == [rows[i]["group"] for i in ids]
            index = {None: -1, "negative": 0, "positive": 1}
            assert group["labels"][:].tolist() == [index[rows[i]["label"]] for i in ids]
            np.testing.assert_array_equal(group["targets"][:], [rows[i].get("score", np.nan) for i in ids])
    assert sum(row["label"] is None for row in rows.values()) == 1


def test_eval_texts_have_one_group_in_files_of_their_own(folder: Path) -> None:
    for k in range(N_LAYERS + 1):
        with h5py.File(folder / f"layer_{k}_eval_imdb.h5") as file:
            assert set(file) == {"eval"}
            assert file["eval/labels"][:].tolist() == [1, -1]
            assert file["eval/activations"].shape == (2, 32)
            assert list(file.attrs["label_names"]) == ["negative", "positive"]


def texts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]


def test_the_texts_lie_beside_the_vectors_in_their_order(folder: Path) -> None:
    rows = texts(folder)
    assert [(r["text"], r["label"]) for r in rows[:10]] == TEXTS
    assert [r["id"] for r in rows[:10]] == [f"é-{i}" for i in range(10)]
    assert [r["split"] for r in rows[10:]] == ["eval_imdb"] * 2
    for row in rows:
        assert row["split"] in ("train", "val", "test", "eval_imdb")
        assert isinstance(row["n_tokens"], int)
        assert set(row["zero_shot"]) == {"negative", "positive"}
        assert all(isinstance(v, float) for v in row["zero_shot"].values())
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in groups.values())


def test_data_files_hold_no_path_host_user_or_time(folder: Path, llama_folder: Path) -> None:
    secrets = [str(folder.parent), str(llama_folder.parent), str(Path.home())]
    secrets += [name for name in (platform.node(), getpass.getuser()) if len(name) > 5]
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in data, (path.name, secret)
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                times: list[int] = []
                file.visititems(
                    lambda _n, item, t=times: t.append(
                        h5py.h5o.get_info(item.id).mtime if hasattr(h5py.h5o.get_info(item.id), "mtime") else 0
                    )
                )
                assert set(times) <= {0}


def test_the_manifest_records_every_file_with_its_digest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["format_version"] == 1
    assert set(manifest["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert all(len(record["sha256"]) == 64 for record in manifest["files"].values())
    assert manifest["elapsed_s"] > 0
