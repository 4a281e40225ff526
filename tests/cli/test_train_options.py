"""Options of ``train``, from flags and from configuration files, ours and brije's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest

from strataprobe.cli.compare import _measure
from strataprobe.cli.train import _say_how_long
from strataprobe.progress import set_quiet
from strataprobe.store import ActivationFolder
from train_folders import write_folder

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("options") / "activations", n=160, d=12, readouts=("last",))


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["config"]
    return found


@pytest.fixture(autouse=True)
def _loud() -> None:
    set_quiet(False)


def test_the_table_tells_auc_c_and_convergence_of_each_layer(cli: Cli, acts: Path, tmp_path: Path) -> None:
    status, out, err = cli("train", "--activations", acts, "--out", tmp_path / "p", "--folds", 3, "--cs", "0.001")
    assert status == 0, err
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()[:1].isdigit()}
    assert list(rows) == ["1", "2"]
    assert rows["2"][-2:] == ["0.001", "yes"]
    assert 0.5 < float(rows["2"][2]) <= 1
    assert "converged" in out


def test_without_cross_validation_tables_are_headed_val(cli: Cli, tmp_path: Path) -> None:
    acts = write_folder(tmp_path / "run" / "activations", n=160, d=12, readouts=("last",))
    probes = tmp_path / "run" / "probes"
    status, out, err = cli(
        "train", "--activations", acts, "--out", probes, "--folds", 0, "--cs", "0.01", "--probe", "linear"
    )
    assert status == 0, err
    assert config_of(probes)["probe"] == "logistic"
    assert "val AUC" in out
    assert "cv AUC" not in out
    status, out, err = cli("compare", "--probes", probes, "--out", tmp_path / "run")
    assert status == 0, err
    assert out.count("val AUC") == 2
    assert "cv AUC" not in out
    assert _measure([{"measured_in": "validation"}, {"measured_in": "cross-validation"}]) == "cv/val AUC"


@pytest.mark.parametrize(("one_s", "said"), [(0.001, "about 1 s"), (3.0, "about 36 s"), (30.0, "about 6.0 minutes")])
def test_the_time_of_networks_is_told_in_a_fitting_unit(
    acts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one_s: float, said: str
) -> None:
    monkeypatch.setattr("strataprobe.probes.parallel.workers_for", lambda _: 1)
    fitter = SimpleNamespace(expected_s=lambda *_: one_s)
    _say_how_long(ActivationFolder.open(acts), fitter, None, None, 5)
    assert said in capsys.readouterr().err


def test_flags_reach_the_training(cli: Cli, acts: Path, tmp_path: Path) -> None:
    flags = (
        "--folds",
        0,
        "--cs",
        "0.1,0.001",
        "--class-weight",
        "balanced",
        "--calibration",
        "temperature",
        "--fpr",
        0.1,
    )
    status, out, err = cli("train", "--activations", acts, "--out", tmp_path / "p", *flags, "--json")
    assert status == 0, err
    assert json.loads(out)["config"] == config_of(tmp_path / "p")
    config = config_of(tmp_path / "p")
    assert config["n_folds"] == 0
    assert config["options"] == {"Cs": [0.001, 0.1], "class_weight": "balanced"}
    assert config["calibration"] == {"method": "temperature", "fpr": 0.1}


def test_brijes_configuration_is_understood_and_answered(cli: Cli, acts: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        '[train]\nprobe_type = "linear"\nbatch_size = 32\nepochs = 50\nlearning_rate = 5e-4\nweight_decay = 1e-3\n'
        "early_stopping_patience = 10\nnum_workers = 4\npin_activations_to_gpu = true\nfolds = 0\n"
    )
    base = ("train", "--activations", acts, "--config", config)
    status, _, err = cli(*base, "--out", tmp_path / "p")
    assert status == 0, err
    assert "probe: logistic (probe_type linear)" in err
    assert "logistic: the solver is exact: no batch_size, early_stopping_patience, epochs" in err
    assert "num_workers is ignored" in err
    assert "pin_activations_to_gpu is ignored" in err
    assert config_of(tmp_path / "p")["probe"] == "logistic"
    assert config_of(tmp_path / "p")["n_folds"] == 0
    status, _, err = cli(*base, "--out", tmp_path / "q", "--quiet")
    assert (status, err) == (0, "")


def test_brijes_network_is_trained_as_it_was_asked(cli: Cli, acts: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[train]\nprobe_type = "multihead"\nbatch_size = 64\nepochs = 2\nfolds = 0\nlayers = "2"\n')
    status, out, err = cli("train", "--activations", acts, "--config", config, "--out", tmp_path / "p", "--epochs", 1)
    assert status == 0, err
    options = config_of(tmp_path / "p")["options"]
    assert (options["epochs"], options["batch_size"]) == (1, 64)
    assert "multihead: networks to train: 1, about" in err
    assert (tmp_path / "p" / "layer_2" / "multihead_probe.pth").is_file()
    assert out.splitlines()[-1] == f"probes in {tmp_path / 'p'}"


def test_run_keeps_the_batch_sizes_of_its_stages_apart(cli: Cli, truth: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        '[generate]\nbatch_size = "8"\n[capture]\ndevice = "cpu"\n'
        '[train]\nprobe_type = "multihead"\nbatch_size = 16\nepochs = 3\nlearning_rate = 2e-3\nfolds = 0\ndevice = "auto"\n'
    )
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--layers", "2", "--readout", "last")
    status, _, err = cli(*base, "--out", tmp_path / "run", "--config", config)
    assert status == 0, err
    probes = config_of(tmp_path / "run" / "probes")
    assert (probes["probe"], probes["options"]["batch_size"]) == ("multihead", 16)
    text = "I am so glad about this."
    used = ("--probes", tmp_path / "run" / "probes", "--model", truth / "model")
    status, out, err = cli("predict", text, *used, "--json")
    assert status == 0, err
    assert sum(p["probability"] for p in json.loads(out)["predictions"]) == pytest.approx(1)
    status, out, err = cli("evaluate", *used, "--data", truth / "texts.jsonl", "--json")
    assert status == 0, err
    assert json.loads(out)["auc"] > 0.7


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[train]\nprobe_type = "forest"\n', "probe_type 'forest' is not known"),
        ("[train]\nsomething = 1\n", "[train] has no option 'something'"),
        ("train = 1\n", "[train] must be a section"),
    ],
)
def test_a_bad_section_is_refused(cli: Cli, acts: Path, tmp_path: Path, section: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(section)
    status, _, err = cli("train", "--activations", acts, "--out", tmp_path / "p", "--config", tmp_path / "c.toml")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_two_sections_that_differ_on_an_option_of_run_are_refused(cli: Cli, truth: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[capture]\nlayers = "1-2"\n[train]\nlayers = "2"\n')
    base = ("run", "--data", truth / "texts.jsonl", "--model", truth / "model", "--out", tmp_path / "run")
    status, _, err = cli(*base, "--config", tmp_path / "c.toml")
    assert status == 2
    assert "[train] has another 'layers'" in err


@pytest.mark.parametrize(
    "flags", [("--probe", "forest"), ("--probe", "joint"), ("--folds", "1"), ("--cs", "0"), ("--train-device", "tpu")]
)
def test_run_refuses_a_bad_training_option_before_it_does_anything(
    cli: Cli, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    status, out, err = cli("run", "--model", tmp_path / "nothing", "--out", tmp_path / "run", *flags)
    assert (status, out) == (2, "")
    assert err.startswith("strataprobe: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--probe", "forest"), "ridge, joint."),
        (("--cs", "0.1;2"), "--cs '0.1;2' cannot be read"),
        (("--cs", "-1"), "must be positive"),
        (("--cs", "1e300"), "from 1e-12 to 1e12"),
        (("--cs", "1e-300,1"), "from 1e-12 to 1e12"),
        (("--probe", "ridge", "--cs", "0.1"), "--cs is for --probe logistic or joint, not ridge"),
        (("--probe", "mass-mean", "--class-weight", "balanced"), "--class-weight is for --probe logistic or multihead"),
        (("--target", "values"), "--target is for --probe ridge, not logistic"),
        (("--class-weight", "heavy"), "use none or balanced"),
        (("--calibration", "magic"), "use platt or temperature"),
        (("--fpr", "2"), "between 0 and 1"),
        (("--folds", "1"), "--folds 1"),
        (("--probe", "joint"), "twice or more"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_sentence(
    cli: Cli, acts: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    status, _, err = cli("train", "--activations", acts, "--out", tmp_path / "p", *flags)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_probes_are_adapted_to_other_text_and_both_kinds_are_told(cli: Cli, tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old" / "activations", n=160, d=12, readouts=("last",), layers=(1,))
    new = write_folder(tmp_path / "new", n=60, d=12, readouts=("last",), layers=(1,), seed=1)
    assert cli("train", "--activations", old, "--out", tmp_path / "old" / "probes", "--folds", 0)[0] == 0
    adapted = ("train", "--from", tmp_path / "old" / "probes", "--activations", new)
    status, out, err = cli(*adapted, "--out", tmp_path / "p", "--epochs", 3, "--device", "cuda")
    assert status == 0, err
    assert "new text (test" in out
    assert "old text (test" in out
    assert "no device, epochs needed; ignored" in err
    status, _, err = cli(*adapted, "--out", tmp_path / "q", "--numbering", "brije")
    assert status == 2
    assert "leave --numbering out" in err
    status, _, err = cli(*adapted, "--activations", new, "--out", tmp_path / "q")
    assert status == 2
    assert "--from takes one --activations folder" in err


def test_joint_probes_of_two_recipes_are_trained_and_compared(cli: Cli, tmp_path: Path) -> None:
    for name, classes in (("mood", ("bad", "good")), ("feeling", ("anger", "fear", "joy"))):
        write_folder(tmp_path / name, n=180, d=12, readouts=("mean",), layers=(0, 1), class_names=classes)
        for path in (tmp_path / name).glob("*.h5"):
            with h5py.File(path, "r+") as file:
                file.attrs.update({"suffix": "", "recipe_name": name})
    both = ("--activations", tmp_path / "mood", "--activations", tmp_path / "feeling")
    status, out, err = cli(
        "train", "--probe", "joint", *both, "--out", tmp_path / "joint", "--folds", 2, "--device", "cuda"
    )
    assert status == 0, err
    assert "joint: fits are made on the CPU: no device needed; ignored" in err
    assert f"probes in {tmp_path / 'joint' / 'mood'}" in out
    assert "feeling, readout mean" in out
    status, _, err = cli("train", *both, "--out", tmp_path / "p")
    assert (status, "only joint takes several" in err) == (2, True)
