"""Training killed with -9 and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from strataprobe.errors import StageError
from strataprobe.manifest import Manifest, verify_folder
from strataprobe.probes.files import pack
from strataprobe.probes.run import DONE_FOLDER, train
from strataprobe.stagefolder import StageFolder
from train_folders import data_files, write_folder

CODE = "import sys\nfrom strataprobe.probes.run import train\ntrain(sys.argv[1], sys.argv[2])\n"


def test_a_killed_training_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "a", layers=tuple(range(1, 9)), n=240, d=24)
    out = tmp_path / "p"
    done = tmp_path / ".p.partial" / DONE_FOLDER
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen([sys.executable, "-c", CODE, str(folder), str(out)], env=env)
    deadline_s = time.monotonic() + 60
    while len(list(done.glob("*.safetensors"))) < 2 and time.monotonic() < deadline_s and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in done.glob("*.safetensors")}
    assert 2 <= len(kept) < 16
    assert not out.exists()
    with pytest.raises(StageError, match="unfinished"):
        train(folder, out, seed=5)
    train(folder, out)
    assert f"{len(kept)} of 16 fits are done already" in capsys.readouterr().err
    train(folder, tmp_path / "whole")
    assert data_files(out) == data_files(tmp_path / "whole")
    assert not done.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "p", "whole"]


def test_layers_that_were_done_are_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strataprobe.probes import tasks

    folder = write_folder(tmp_path / "a", layers=(1, 2, 3), readouts=("last",))
    fitted, real = [], tasks.fit_layer

    def counted(*arguments: object) -> object:
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "fit_layer", counted)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "p")
    assert len(fitted) == 2
    fitted.clear()
    train(folder, tmp_path / "p")
    assert len(fitted) == 1


def test_an_interrupted_training_of_fewer_layers_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strataprobe.probes import tasks

    folder = write_folder(tmp_path / "a", layers=(1, 2, 3), readouts=("last",))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(StageFolder, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "p", layers=[1, 2])
    fitted, real = [], tasks.fit_layer
    monkeypatch.setattr(tasks, "fit_layer", lambda *arguments: (fitted.append(1), real(*arguments))[1])
    train(folder, tmp_path / "p")
    assert len(fitted) == 1
    train(folder, tmp_path / "whole")
    assert data_files(tmp_path / "p") == data_files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: pack({}, {})])
def test_a_saved_fit_that_was_damaged_is_fitted_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    folder = write_folder(tmp_path / "a", layers=(1, 2), readouts=("last",))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(StageFolder, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "p", folds=0)
    saved = tmp_path / ".p.partial" / DONE_FOLDER / "last.layer_2.safetensors"
    saved.write_bytes(damage(saved.read_bytes()))
    train(folder, tmp_path / "p", folds=0)
    err = capsys.readouterr().err
    assert "layer_2.safetensors cannot be read: this layer is fitted again" in err
    assert "1 of 2 fits are done already" in err
    train(folder, tmp_path / "whole", folds=0)
    assert data_files(tmp_path / "p") == data_files(tmp_path / "whole")


def test_a_training_killed_before_its_folder_is_in_place_fits_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strataprobe.probes import tasks

    folder = write_folder(tmp_path / "a", layers=(1, 2), readouts=("last",))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(StageFolder, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    with monkeypatch.context() as watched:
        watched.setattr(tasks, "fit_layer", lambda *_: pytest.fail("a layer that was done is fitted again"))
        train(folder, tmp_path / "p")
    assert not (tmp_path / "p" / DONE_FOLDER).exists()
    train(folder, tmp_path / "whole")
    assert data_files(tmp_path / "p") == data_files(tmp_path / "whole")


def test_saved_fits_left_in_a_finished_folder_are_no_part_of_it_and_go_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,), readouts=("last",))
    real = StageFolder.commit

    def killed_right_after(stage: StageFolder, manifest: Manifest) -> Manifest:
        real(stage, manifest)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(StageFolder, "commit", killed_right_after)
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "p")
    assert (tmp_path / "p" / DONE_FOLDER).is_dir()
    assert verify_folder(tmp_path / "p") == []
    before = (tmp_path / "p" / "manifest.json").read_bytes()
    assert b".done" not in before
    train(folder, tmp_path / "p")
    assert not (tmp_path / "p" / DONE_FOLDER).exists()
    assert (tmp_path / "p" / "manifest.json").read_bytes() == before
