"""The commands under "How to reproduce": they can be typed as they stand, or say what to put in."""

from __future__ import annotations

import html
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compare_folders import write_activations
from strataprobe.cli.app import app
from strataprobe.compare.reproduce import reproduction
from strataprobe.compare.run import compare
from strataprobe.probes.run import train


def folders(root: Path, *names: str) -> list[Path]:
    found = [root / name for name in names]
    for path in found:
        path.mkdir(parents=True)
    return found


def commands_of(page: Path) -> list[str]:
    text = page.read_text("utf-8")
    part = text[text.index('<section id="reproduce">') :]
    found = re.search(r"<pre><code>(.*?)</code></pre>", part, re.DOTALL)
    assert found
    return html.unescape(found[1]).splitlines()


def test_the_commands_of_a_report_can_be_typed_and_ask_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "my run", tmp_path / "out"
    kind: dict[str, Any] = {"n_layers": 2, "starts_at": 2, "readouts": ("mean",), "evals": (), "layer_0": False}
    activations = write_activations(run / "my vectors", n_groups=40, **kind)
    train(activations, run / "probes")
    (run / "theirs.tsv").write_text("layer\tauc\n1\t0.5\n2\t0.6\n", "utf-8")
    compare([run / "probes"], out, activations=[activations], published=[run / "theirs.tsv"], published_blocks=6)
    monkeypatch.chdir(run)
    for i, report in enumerate((out, out / "sentiment")):
        assert str(tmp_path) not in (report / "report.html").read_text("utf-8")
        *checks, again = commands_of(report / "report.html")
        assert checks == ["strataprobe verify probes"]  # activations of others have no manifest
        assert ("--published theirs.tsv --published-blocks 6" in again) == (i == 0)
        shutil.copytree(report, run / "again")
        for line in (*checks, again):
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, result.output
        assert "again/comparison.json is up to date with these probes" in result.stderr  # so the same is asked for
        shutil.rmtree(run / "again")


def test_each_set_is_given_with_its_own_activations(tmp_path: Path) -> None:
    a, b, shared = folders(tmp_path, "a/probes", "b/probes", "b/activations")
    found = reproduction([("mood", a, shared), ("tone", b, shared)], seed=0)
    assert found.commands == [
        "strataprobe compare --probes a/probes --activations b/activations --probes b/probes --activations b/activations "
        "--out again --seed 0"
    ]
    assert found.held == ["b/activations", "a/probes", "b/probes"]
    assert found.placeholders == {}


def test_folders_far_apart_get_a_placeholder_that_is_explained(tmp_path: Path) -> None:
    near, far = folders(tmp_path, "a/probes", "b/c/d/activations")
    found = reproduction([("mood", near, far)], [("theirs", Path("/elsewhere/theirs.tsv"))], 34, seed=3)
    assert found.commands == [
        "strataprobe compare --probes a/probes --activations ACTIVATIONS_1 --published PUBLISHED_1 "
        "--published-blocks 34 --out again --seed 3"
    ]
    assert found.held == ["a/probes"]
    assert found.placeholders == {
        "ACTIVATIONS_1": "the activations of mood",
        "PUBLISHED_1": "the published figures theirs",
    }


def test_folders_with_nothing_in_common_are_not_named_after_the_machine(tmp_path: Path) -> None:
    found = reproduction([("mood", tmp_path, Path(os.sep) / "elsewhere")], seed=0)
    assert list(found.placeholders) == ["ACTIVATIONS_1", "PROBES_1"]
    assert str(tmp_path.name) not in " ".join(found.commands)
