"""Bad input: one sentence that names what is wrong, where, and the fix; exit status 2; nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import known_truth
from builders import save_model
from demo import STRATAPROBE, command_line

Cli = Callable[..., tuple[int, str, str]]

GOOD = '{"text": "word1 good1 .", "label": "positive"}\n{"text": "word2 bad1 .", "label": "negative"}\n'
RECIPE = 'name = "mine"\n[[classes]]\nname = "a"\n[[classes]]\nname = "b"\n'


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """One sentence on stderr that holds every part, nothing on stdout, status 2."""
    status, out, err = result
    sentences = [line for line in err.splitlines() if line.startswith("strataprobe: ")]
    assert status == 2, err
    assert out == ""
    assert len(sentences) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in sentences[0], f"{part!r} is not in {sentences[0]!r}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write_file(name: str, contents: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        return path

    return write_file


@pytest.mark.parametrize(
    ("name", "contents", "parts"),
    [
        ("x.jsonl", GOOD + "{not json\n", ("x.jsonl, line 3", "not JSON")),
        ("x.jsonl", GOOD + '["a list"]\n', ("x.jsonl, line 3", "not a JSON object")),
        ("x.jsonl", GOOD + '{"label": "positive"}\n', ("x.jsonl, line 3", "no 'text'")),
        ("x.jsonl", GOOD + '{"text": "  ", "label": "positive"}\n', ("x.jsonl, line 3", "empty text")),
        ("x.jsonl", GOOD + '{"text": 5, "label": "positive"}\n', ("x.jsonl, line 3", "not a string")),
        ("x.jsonl", GOOD + '{"text": "half \\ud83d", "label": "positive"}\n', ("line 3", "surrogate")),
        ("x.jsonl", GOOD + '{"text": "a", "label": "positive", "split": "later"}\n', ("line 3", "later", "train")),
        ("x.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', ("line 2", "line 1", "ids must differ")),
        ("x.jsonl", "", ("x.jsonl", "no texts")),
        ("x.jsonl", b'{"text": "caf\xe9"}\n', ("x.jsonl", "UTF-8")),
        ("x.csv", "words,label\na,b\n", ("x.csv", "no column 'text'")),
        ("x.docx", "text", ("x.docx", ".jsonl")),
    ],
)
def test_a_bad_text_file_is_refused_with_its_place(
    cli: Cli, write: Callable[..., Path], truth: Path, tmp_path: Path, name: str, contents: str, parts: tuple[str, ...]
) -> None:
    path = write(name, contents)
    refused(cli("run", "--data", path, "--model", truth / "model", "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out" / "data").exists()


def test_a_missing_file_is_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    result = cli("capture", "--data", tmp_path / "no.jsonl", "--model", truth / "model", "--out", tmp_path / "out")
    refused(result, "no.jsonl", "is not a file")


def test_a_class_that_the_recipe_does_not_know_is_refused(cli: Cli, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("x.jsonl", GOOD + '{"text": "word3 .", "label": "neutral"}\n')
    result = cli("run", "sentiment", "--data", path, "--model", "demo", "--out", tmp_path / "out")
    refused(result, "line 3", "'neutral'", "negative, positive")


def test_texts_of_one_class_only_are_refused(cli: Cli, write: Callable[..., Path], truth: Path, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"word{i} good{i} .", "label": "positive"}) + "\n" for i in range(30))
    result = cli("run", "--data", write("x.jsonl", lines), "--model", truth / "model", "--out", tmp_path / "out")
    refused(result, "class")
    assert not (tmp_path / "out" / "probes").exists()


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("sentimant", ("sentimant", "sentiment")),
        ("name = ", ("mine.toml", "TOML")),
        ('name = "mine"\n[[classes]]\nname = "a"\n', ("at least two classes",)),
        (RECIPE + '[[classes]]\nname = "a"\n', ("'a' is named twice",)),
        (RECIPE.replace('"mine"', '"mi/ne"'), ("letters, digits",)),
        (RECIPE + "[split]\ntrain = 0.9\n", ("add up to 1",)),
        ("sizes = 5\n" + RECIPE, ("sizes",)),
        (RECIPE, ("mine", "--data")),
    ],
)
def test_a_bad_recipe_is_refused(
    cli: Cli, write: Callable[..., Path], tmp_path: Path, recipe: str, parts: tuple[str, ...]
) -> None:
    name = recipe if recipe == "sentimant" else write("mine.toml", recipe)
    refused(cli("generate", name, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--layers", "1-99", ("1 to 4", "1-99")),
        ("--layers", "one", ("'one'", "1-10,20")),
        ("--readout", "first", ("'first'", "last, mean")),
        ("--template", "html", ("'html'", "none, chat")),
        ("--template", "chat", ("no chat template", "--template none")),
        ("--max-tokens", "0", ("--max-tokens",)),
        ("--max-tokens", "1", ("raise --max-tokens",)),
        ("--max-tokens", "99999", ("512",)),
        ("--batch-tokens", "many", ("--batch-tokens", "'many'")),
        ("--dtype", "float12", ("'float12'", "float32")),
        ("--device", "abacus", ("'abacus'", "cpu")),
        ("--device", "cuda", ("cuda", "not available")),
        ("--eval", "reviews", ("'reviews'", "NAME=FILE")),
    ],
)
def test_a_bad_option_of_capture_is_refused(
    cli: Cli, truth: Path, tmp_path: Path, option: str, value: str, parts: tuple[str, ...]
) -> None:
    base = ("capture", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / "out")
    if option == "--device" and value == "cuda":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    refused(cli(*base, option, value), *parts)
    assert not (tmp_path / "out").exists()


def test_an_unknown_backend_is_refused(cli: Cli, tmp_path: Path) -> None:
    refused(cli("generate", "sentiment", "--backend", "quill", "--out", tmp_path / "out"), "quill", "builtin")


def test_a_model_folder_without_a_config_is_refused(cli: Cli, tmp_path: Path) -> None:
    refused(cli("check", tmp_path), "config.json")


def test_a_path_that_is_no_folder_is_not_taken_for_a_model_id(cli: Cli, tmp_path: Path) -> None:
    refused(cli("check", tmp_path / "nothing"), "is not a folder")


def test_a_model_that_cannot_be_reached_is_said_to_be(cli: Cli) -> None:
    refused(cli("check", "google/gemma-3-4b-it"), "google/gemma-3-4b-it", "cannot be reached", "network")


def test_weights_that_were_cut_short_are_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(truth / "model", tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(cli("check", folder), "model", "cannot be loaded")


def test_a_folder_of_activations_of_other_texts_is_refused_and_left_alone(
    cli: Cli, truth: Path, copy_of_run: Path, write: Callable[..., Path]
) -> None:
    before = {p: p.read_bytes() for p in (copy_of_run / "activations").iterdir()}
    out = copy_of_run / "activations"
    refused(cli("capture", "--data", write("x.jsonl", GOOD), "--model", truth / "model", "--out", out), "texts_sha256")
    assert {p: p.read_bytes() for p in out.iterdir()} == before


def test_a_folder_of_activations_of_another_model_is_refused(
    cli: Cli, truth: Path, copy_of_run: Path, tmp_path: Path
) -> None:
    known_truth.build_model(None, 4).save_pretrained(tmp_path / "other")
    known_truth.build_tokenizer().save_pretrained(tmp_path / "other")
    out = copy_of_run / "activations"
    result = cli("capture", "--data", copy_of_run / "data", "--model", tmp_path / "other", "--out", out)
    refused(result, "model_revision", "another --out")


def test_probes_on_a_model_of_another_width_are_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "wide", "llama", 4)
    result = cli("predict", "word1 .", "--probes", truth / "run" / "probes", "--model", model)
    refused(result, "96 wide", "32 wide", "another model")


def test_probes_on_another_model_of_the_same_shape_are_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    known_truth.build_model(None, 4).save_pretrained(tmp_path / "other")
    known_truth.build_tokenizer().save_pretrained(tmp_path / "other")
    result = cli("predict", "word1 .", "--probes", truth / "run" / "probes", "--model", tmp_path / "other")
    refused(result, "other weights")


def test_a_layer_without_probes_is_refused(cli: Cli, truth: Path) -> None:
    base = ("predict", "word1 .", "--probes", truth / "run" / "probes", "--model", truth / "model")
    refused(cli(*base, "--layer", 9), "layer 9", "1-4")
    refused(cli(*base, "--ensemble", "2,9"), "layer 9", "1-4")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("word1 .", "--top-k", "0"), ("--top-k", "at least 1")),
        (("word1 .", "--threshold", "2"), ("between 0 and 1",)),
        ((" ",), ("empty text",)),
        ((), ("command line or with --file",)),
        (("word1 .", "--layer", "1", "--ensemble", "1,2"), ("exclude each other",)),
        (("word1 .", "--ensemble", "1,2", "--method", "sum"), ("'sum'", "mean, vote, stacked")),
        (("--file", "no.jsonl"), ("no.jsonl",)),
    ],
)
def test_bad_use_of_predict_is_refused(cli: Cli, truth: Path, more: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(cli("predict", *more, "--probes", truth / "run" / "probes", "--model", truth / "model"), *parts)


def test_a_bad_line_on_standard_input_is_refused(cli: Cli, truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "word1 ."}\n{"text": \n'))
    result = cli("predict", "--file", "-", "--probes", truth / "run" / "probes", "--model", truth / "model")
    refused(result, "standard input, line 2", "not JSON")


def test_a_folder_without_probes_is_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    refused(cli("predict", "a", "--probes", tmp_path, "--model", truth / "model"), "probes.safetensors")
    refused(cli("predict", "a", "--probes", tmp_path / "no", "--model", truth / "model"), "is not a folder")


@pytest.mark.parametrize(
    "name", ["probes/probes.safetensors", "probes/manifest.json", "probes/layer_1/probe_positive.pth"]
)
def test_a_probe_file_that_was_cut_short_is_refused(cli: Cli, truth: Path, copy_of_run: Path, name: str) -> None:
    path = copy_of_run / name
    path.write_bytes(path.read_bytes()[:-40])
    folder = path.parent if path.suffix == ".pth" else copy_of_run / "probes"
    refused(cli("predict", "word1 .", "--probes", folder, "--model", truth / "model"), path.name)


def test_an_activations_file_that_was_cut_short_is_refused(cli: Cli, copy_of_run: Path, tmp_path: Path) -> None:
    path = copy_of_run / "activations" / "layer_4_activations.h5"
    path.write_bytes(path.read_bytes()[:3000])
    refused(
        cli("train", "--activations", path.parent, "--out", tmp_path / "probes"), "layer_4_activations.h5", "damaged"
    )
    assert not (tmp_path / "probes").exists()


def test_a_folder_of_another_stage_is_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(cli("train", "--activations", truth / "run" / "data", "--out", out), "layer_K_activations.h5")
    refused(cli("capture", "--data", truth / "run" / "probes", "--model", truth / "model", "--out", out), "'train'")
    refused(cli("compare", "--probes", truth / "run" / "data", "--out", out), "data")
    assert not out.exists()


def test_files_of_the_user_are_never_replaced(cli: Cli, truth: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for command in (("generate", "sentiment"), ("train", "--activations", truth / "run" / "activations")):
        refused(cli(*command, "--out", tmp_path), str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    refused(cli("generate", "sentiment", "--out", tmp_path / "thesis.txt"), "thesis.txt")


def test_verify_names_the_file_that_was_changed(cli: Cli, copy_of_run: Path) -> None:
    assert cli("verify", copy_of_run / "probes")[0] == 0
    path = copy_of_run / "probes" / "oof_logits.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    status, out, _ = cli("verify", copy_of_run / "probes")
    assert status == 2
    assert "oof_logits.safetensors has other contents" in out


@pytest.mark.parametrize(
    ("config", "parts"),
    [("[capture]\nlayer = 5\n", ("'layer'", "[capture]")), ("[capture\n", ("TOML",)), ("capture = 5\n", ("section",))],
)
def test_a_bad_configuration_file_is_refused(
    cli: Cli, write: Callable[..., Path], truth: Path, tmp_path: Path, config: str, parts: tuple[str, ...]
) -> None:
    base = ("capture", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / "out")
    refused(cli(*base, "--config", write("c.toml", config)), *parts)


def test_an_unknown_option_is_refused_by_the_parser(cli: Cli) -> None:
    status, _, err = cli("check", "demo", "--colour", "blue")
    assert status == 2
    assert "--colour" in err


@pytest.mark.parametrize("size_kib", [160, 640])
def test_a_full_disk_is_said_to_be_full_and_loses_nothing(truth: Path, tmp_path: Path, size_kib: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        base = ("capture", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", disk / "out")
        done = command_line(*base)
        refused((done.returncode, done.stdout, done.stderr), "space")
        assert not (disk / "out").exists()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("name", ["afile", "afile/below", "x" * 300, "dangling"])
def test_an_output_folder_that_cannot_be_made_is_refused(cli: Cli, truth: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / name)
    status, out, err = cli(*base)
    assert status == 2, err
    assert "Traceback" not in err
    assert out == ""
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([("word1 good1 .", None, None)] * 3, ("no labels",)),
        ([(f"word{i} good{i} .", "a", None) for i in range(30)], ("only the class 'a'",)),
        ([(f"word{i} word{i + 1} good{i} .", "ab"[i % 2], "train") for i in range(30)], ("'val'", "'split'")),
        ([(f"word{i} word{i + 1} good{i} .", "ab"[i], None) for i in range(2)], ("add texts",)),
    ],
)
def test_texts_that_cannot_be_trained_on_are_refused_before_the_model_runs(
    cli: Cli, write: Callable[..., Path], truth: Path, tmp_path: Path, rows: list[tuple], parts: tuple[str, ...]
) -> None:
    lines = [
        {k: v for k, v in zip(("text", "label", "split"), row, strict=True) if v is not None} | {"id": str(i)}
        for i, row in enumerate(rows)
    ]
    data = write("x.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    refused(cli("run", "--data", data, "--model", truth / "model", "--out", tmp_path / "out"), "x.jsonl", *parts)
    assert not (tmp_path / "out" / "activations").exists()


@pytest.mark.parametrize("name", ["activations/layer_2_activations.h5", "probes/probes.safetensors"])
def test_a_run_over_a_damaged_folder_says_so(cli: Cli, truth: Path, copy_of_run: Path, name: str) -> None:
    path = copy_of_run / name
    path.write_bytes(path.read_bytes()[:-100])
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", copy_of_run)
    refused(cli(*base), path.name, "another size", "delete")


def test_a_damaged_comparison_is_written_again(cli: Cli, truth: Path, copy_of_run: Path) -> None:
    sound = (copy_of_run / "comparison.json").read_text()
    (copy_of_run / "comparison.json").write_text(sound[:-50])
    assert cli("predict", "word1 .", "--probes", copy_of_run / "probes", "--model", truth / "model")[0] == 0
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", copy_of_run)
    assert cli(*base)[0] == 0
    assert json.loads((copy_of_run / "comparison.json").read_text())["layers"] == json.loads(sound)["layers"]


def test_a_layer_that_was_not_trained_is_not_replaced_by_the_only_one(cli: Cli, truth: Path, tmp_path: Path) -> None:
    probes = tmp_path / "probes"
    assert cli("train", "--activations", truth / "run" / "activations", "--out", probes, "--layers", "2")[0] == 0
    base = ("predict", "word1 .", "--probes", probes, "--model", truth / "model")
    assert cli(*base, "--layer", 2)[0] == 0
    refused(cli(*base, "--layer", 3), "layer 3")
    refused(cli(*base, "--ensemble", "1,2"), "layer 1")


def test_a_local_model_must_be_named_again(cli: Cli, truth: Path) -> None:
    refused(cli("predict", "word1 .", "--probes", truth / "run" / "probes"), "local model 'model'", "--model")


def test_two_processes_do_not_write_one_folder(truth: Path, tmp_path: Path) -> None:
    base = ("capture", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / "activations")
    holder = (
        "import sys, time; from pathlib import Path; from strataprobe.locks import take_lock\n"
        "take_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "activations")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        done = command_line(*base)
        refused((done.returncode, done.stdout, done.stderr), "another strataprobe is writing")
        other.kill()
    done = command_line(*base)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_reader_that_stops_early_is_no_error(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("word1 good1 .\n" * 3000)
    command = f"{STRATAPROBE} predict --file x.txt --probes {truth}/run/probes --model {truth}/model --json | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
