"""A small finished run on the decoder with known truth, for tests of the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import known_truth
from strataprobe.cli import main

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model`` (4 layers, concept written by block 1), ``texts.jsonl`` (240) and ``run`` (finished)."""
    folder = tmp_path_factory.mktemp("truth")
    known_truth.write(folder, concept_block=1, n_layers=4, n_texts=240)
    with pytest.raises(SystemExit) as left:
        main(
            [
                "run",
                "--data",
                f"{folder}/texts.jsonl",
                "--model",
                f"{folder}/model",
                "--out",
                f"{folder}/run",
                "--quiet",
            ]
        )
    assert left.value.code == 0
    return folder


@pytest.fixture
def copy_of_run(truth: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(truth / "run", tmp_path / "run"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run
