"""What the commands print when all is well."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import strataprobe as sp
from demo import STRATAPROBE
from strataprobe.cli.app import app
from strataprobe.cli.options import unescape
from strataprobe.progress import set_quiet

Cli = Callable[..., tuple[int, str, str]]
VERBS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)
TEXTS = ["word1 good1 good2 .", "word2 bad1 bad2 bad3 ."]


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def base(truth: Path) -> tuple[object, ...]:
    return ("--probes", truth / "run" / "probes", "--model", truth / "model")


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(cli: Cli, verb: str) -> None:
    status, out, _ = cli(verb, "--help")
    assert status == 0
    assert f"Example: strataprobe {verb}" in " ".join(out.replace("│", " ").split())


def test_help_is_quick_and_does_not_load_torch() -> None:
    code = (
        "import sys; from strataprobe.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'h5py', 'sklearn', 'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    times_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        subprocess.run([STRATAPROBE, "run", "--help"], capture_output=True, check=True)
        times_s.append(time.perf_counter() - started_s)
    assert min(times_s) < 0.5


def test_predict_prints_one_object_a_line_in_the_order_given(cli: Cli, base: tuple[object, ...]) -> None:
    status, out, _ = cli("predict", *TEXTS, *base, "--layer", 3, "--json")
    assert status == 0
    found = lines(out)
    assert [row["text"] for row in found] == TEXTS
    assert [row["layers"] for row in found] == [[3], [3]]
    assert [row["predictions"][0]["action"] for row in found] == ["positive", "negative"]
    for row in found:
        assert [set(p) for p in row["predictions"]] == [{"action", "probability", "active"}] * 2
        probabilities = [p["probability"] for p in row["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-12)


def test_predict_without_json_shows_each_text_and_its_classes(cli: Cli, base: tuple[object, ...]) -> None:
    status, out, _ = cli("predict", TEXTS[0], *base)
    assert status == 0
    assert TEXTS[0] in out
    assert "positive" in out
    assert "active" in out


def test_top_k_keeps_the_likeliest_and_threshold_decides_what_is_active(cli: Cli, base: tuple[object, ...]) -> None:
    _, out, _ = cli("predict", TEXTS[0], *base, "--json", "--top-k", 1, "--threshold", 1)
    (only,) = lines(out)[0]["predictions"]
    assert only["action"] == "positive"
    assert not only["active"]
    _, out, _ = cli("predict", TEXTS[0], *base, "--json", "--threshold", 0)
    assert all(p["active"] for p in lines(out)[0]["predictions"])


@pytest.mark.parametrize("method", ["mean", "vote", "stacked"])
def test_an_ensemble_names_its_layers(cli: Cli, base: tuple[object, ...], method: str) -> None:
    _, out, _ = cli("predict", *TEXTS, *base, "--json", "--ensemble", "4,2-3", "--method", method)
    found = lines(out)
    assert [row["layers"] for row in found] == [[2, 3, 4]] * 2
    assert [row["predictions"][0]["action"] for row in found] == ["positive", "negative"]


def test_several_probe_sets_come_back_by_name(cli: Cli, truth: Path, base: tuple[object, ...]) -> None:
    _, out, _ = cli("predict", TEXTS[0], *base, "--probes", truth / "run" / "probes" / "layer_3", "--json")
    (row,) = lines(out)
    assert set(row) == {"text", "sets"}
    assert len(row["sets"]) == 2
    assert {tuple(found["layers"]) for found in row["sets"].values()} >= {(3,)}


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("x.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in TEXTS)),
        ("x.csv", 'id,text\n1,"' + TEXTS[0] + '"\n2,' + TEXTS[1] + "\n"),
        ("x.txt", "\n\n".join(TEXTS) + "\n"),
    ],
)
def test_a_file_of_texts_gives_what_the_texts_themselves_give(
    cli: Cli, base: tuple[object, ...], tmp_path: Path, name: str, contents: str
) -> None:
    (tmp_path / name).write_text(contents)
    assert cli("predict", "--file", tmp_path / name, *base, "--json")[1] == cli("predict", *TEXTS, *base, "--json")[1]


def test_a_parquet_file_gives_what_the_texts_themselves_give(
    cli: Cli, base: tuple[object, ...], tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "x.parquet")
    one = cli("predict", "--file", tmp_path / "x.parquet", *base, "--json")
    assert one[1] == cli("predict", *TEXTS, *base, "--json")[1]


@pytest.mark.parametrize("form", ["{}", "plain"])
def test_standard_input_is_read_as_jsonl_or_as_plain_lines(
    cli: Cli, base: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    text = "\n".join(json.dumps({"text": t}) if form == "{}" else t for t in TEXTS)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert [row["text"] for row in lines(cli("predict", "--file", "-", *base, "--json")[1])] == TEXTS


@pytest.mark.parametrize(
    "text", ["é🙂 word1", "שלום good1 עולם", "word1 " * 300, "[bold]good1[/bold]", "<script>x</script>"]
)
def test_odd_text_is_read_and_printed_as_it_is(cli: Cli, base: tuple[object, ...], text: str) -> None:
    status, out, _ = cli("predict", text, *base, "--json")
    assert status == 0
    assert lines(out)[0]["text"] == text
    status, out, _ = cli("predict", text, *base)
    assert status == 0
    assert " ".join(text.split())[:40] in out


def test_quiet_says_nothing_and_notes_go_to_stderr(cli: Cli, base: tuple[object, ...]) -> None:
    _, quiet_out, quiet_err = cli("predict", TEXTS[0], *base, "--json", "--quiet")
    _, out, err = cli("predict", TEXTS[0], *base, "--json")
    assert quiet_err == ""
    assert "auto" in err
    assert out == quiet_out


def test_a_configuration_file_sets_defaults_and_flags_win(cli: Cli, truth: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[capture]\nlayers = "2"\nbatch-tokens = "100"\n')
    base = ("capture", "--data", truth / "texts.jsonl", "--model", truth / "model", "--config", config)
    assert cli(*base, "--out", tmp_path / "a")[0] == 0
    assert cli(*base, "--out", tmp_path / "b", "--layers", "1")[0] == 0
    assert sorted(p.name for p in (tmp_path / "a").glob("*.h5")) == ["layer_0_activations.h5", "layer_2_activations.h5"]
    assert sorted(p.name for p in (tmp_path / "b").glob("*.h5")) == ["layer_0_activations.h5", "layer_1_activations.h5"]


def test_the_stages_one_by_one_give_what_run_gives(cli: Cli, truth: Path, tmp_path: Path) -> None:
    run = truth / "run"
    base = ("capture", "--data", run / "data", "--model", truth / "model", "--out", tmp_path / "activations")
    assert cli(*base, "--json")[0] == 0
    assert cli("train", "--activations", tmp_path / "activations", "--out", tmp_path / "probes")[0] == 0
    status, out, _ = cli("compare", "--probes", tmp_path / "probes", "--out", tmp_path, "--json")
    assert status == 0
    mine, theirs = json.loads(out), json.loads((run / "comparison.json").read_text())
    assert mine["layers"] == theirs["layers"]
    assert mine["best_layer"] == theirs["best_layer"]
    for path in [*(run / "activations").glob("*.h5"), *(run / "probes").glob("layer_*/*.pth")]:
        assert (tmp_path / path.relative_to(run)).read_bytes() == path.read_bytes()


def test_eval_texts_become_a_curve_of_their_own(cli: Cli, truth: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (truth / "texts.jsonl").read_text().splitlines()][:40]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / "run")
    status, _, err = cli(*base, "--eval", f"mine={tmp_path / 'mine.jsonl'}")
    assert status == 0, err
    comparison = json.loads((tmp_path / "run" / "comparison.json").read_text())
    by_layer = {e["layer"]: e["eval"]["mine"] for e in comparison["layers"] if e["readout"] == "last"}
    assert by_layer[4] > 0.9
    assert len({*by_layer}) == 4
    texts = [json.loads(line) for line in (tmp_path / "run" / "activations" / "texts.jsonl").read_text().splitlines()]
    assert sum(row["split"] == "eval_mine" for row in texts) == 40


def test_check_trusts_a_sound_model_and_prints_every_layer(cli: Cli, truth: Path) -> None:
    status, out, _ = cli("check", truth / "model", "--json")
    result = json.loads(out)
    assert status == 0
    assert result["trusted"]
    assert [c["layer"] for c in result["layers"]] == [0, 1, 2, 3, 4]
    status, out, _ = cli("check", truth / "model")
    assert "can be trusted here" in out


def test_check_refuses_a_model_whose_blocks_are_not_what_the_library_reports(
    cli: Cli, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strataprobe.capture import hooks

    sound = hooks.hidden_of
    monkeypatch.setattr(hooks, "hidden_of", lambda output, shape: sound(output, shape) * 1.01)
    status, out, _ = cli("check", truth / "model")
    assert status == 2
    assert "cannot be trusted" in out


def test_a_backslash_n_typed_in_a_shell_is_a_newline() -> None:
    assert unescape("\\n\\nThe end is") == "\n\nThe end is"
    assert unescape("\\\\nu \\x") == "\\nu \\x"
    assert unescape(None) is None


def test_evaluate_agrees_with_the_probabilities_that_predict_gives(
    cli: Cli, truth: Path, base: tuple[object, ...]
) -> None:
    from sklearn.metrics import roc_auc_score

    rows = [json.loads(line) for line in (truth / "texts.jsonl").read_text().splitlines()]
    _, out, _ = cli("predict", "--file", truth / "texts.jsonl", *base, "--layer", 1, "--json")
    p = [next(x["probability"] for x in row["predictions"] if x["action"] == "positive") for row in lines(out)]
    _, out, _ = cli("evaluate", *base, "--data", truth / "texts.jsonl", "--layer", 1, "--json")
    result = json.loads(out)
    labels = np.array([row["label"] == "positive" for row in rows])
    assert result["auc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-9)
    assert result["n"] == len(rows)


def test_evaluate_says_how_many_texts_the_probes_were_trained_on(
    cli: Cli, truth: Path, base: tuple[object, ...], copy_of_run: Path, tmp_path: Path
) -> None:
    set_quiet(False)
    rows = [json.loads(line) for line in (truth / "run" / "activations" / "texts.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["split"] == "train"][:8] + [row for row in rows if row["split"] == "test"][:6]
    kept = [{key: row[key] for key in ("id", "text", "label")} for row in chosen]

    def said(probes: Path, rows: list[dict]) -> str:
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        status, _, err = cli("evaluate", *base[2:], "--probes", probes, "--data", path, "--layer", 1)
        assert status == 0, err
        return err

    sentence = "8 of 14 texts trained or tuned these probes; on them the figures flatter."
    assert sentence in said(copy_of_run / "probes", kept)
    assert sentence in said(copy_of_run / "probes", [row | {"id": f"own-{i}"} for i, row in enumerate(kept)])
    assert "flatter" not in said(copy_of_run / "probes", [row | {"text": f"so {row['text']}"} for row in kept])
    assert "flatter" not in said(copy_of_run / "probes", kept[8:])
    shutil.rmtree(copy_of_run / "activations")
    by_id = said(copy_of_run / "probes", kept)
    assert ("8 of 14" in by_id) == (not kept[0]["id"].isdecimal())


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version")[1] == f"strataprobe {sp.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "strataprobe", "--version"], capture_output=True, text=True)
    assert done.stdout == f"strataprobe {sp.__version__}\n"
