"""The README's code runs as printed, in order, in one folder; its links and paths exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from builders import SENTENCES
from demo import demo_run, in_process

REPO = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(kind: str) -> list[str]:
    return [body for found, body in BLOCK.findall((REPO / "README.md").read_text("utf-8")) if found == kind]


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where ``outputs/demo`` is, with a ``mine.jsonl`` and a ``more.jsonl`` of the user's own."""
    found = demo_run().folder
    rows = [
        {"text": f"{sentence} It was {word} {i}.", "label": label}
        for i in range(8)
        for sentence in SENTENCES
        for word, label in (("wonderful", "good"), ("terrible", "bad"))
    ]
    for name, these in (("mine.jsonl", rows[:-20]), ("more.jsonl", rows[-20:])):
        (found / name).write_text("".join(json.dumps(row) + "\n" for row in these))
    return found


def test_the_python_blocks_run_one_after_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "(384,)" in out
    assert "probability" in out


def test_the_first_python_example_is_about_ten_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10


def test_every_command_line_of_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("strataprobe ")]
    assert len(commands) >= 6
    for line in commands:
        done = in_process(*shlex.split(line)[1:])
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "figures flatter" not in done.stderr, line


def test_the_make_commands_are_targets_of_the_makefile() -> None:
    makefile = (REPO / "Makefile").read_text()
    asked = {word for block in blocks("") for word in re.findall(r"^make (\w+)", block, re.MULTILINE)}
    assert asked == {"run", "test"}
    for target in asked | {"setup", "bench", "lint"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/capture.md", "docs/decisions/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = REPO / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_path_of_the_file_map_exists() -> None:
    table = (REPO / "README.md").read_text("utf-8").split("## Where things are")[1]
    base = REPO
    for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            beside = [REPO / name, REPO / "src" / "strataprobe" / name]
            assert any(p.exists() for p in beside), f"{name} ({base})"
