"""Reading and writing .pth probes, ours and brije's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strataprobe.errors import ProbeError
from strataprobe.probes.calibration import Calibration
from strataprobe.probes.probe import Probe
from strataprobe.probes.pth import COGNITIVE_SUFFIX, SENTIMENT_SUFFIX, load_probe_folder, load_pth, pth_name

DATA = Path(os.environ.get("STRATAPROBE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
BRIJE = DATA / "brije"
needs_brije = pytest.mark.skipif(not BRIJE.is_dir(), reason=f"no real probes at {BRIJE}; set STRATAPROBE_DATA")
METADATA_KEYS = {
    "action",
    "layer",
    "block_index",
    "readout",
    "prefix",
    "suffix",
    "template",
    "model",
    "model_revision",
    "threshold",
    "calibration",
    "kind",
}


def probe(action: str = "positive", **more: Any) -> Probe:
    values = {
        "weight": np.linspace(-1, 1, 8, dtype=np.float32),
        "bias": 0.5,
        "layer": 3,
        "block_index": 2,
        "readout": "last",
        "suffix": "\n\nHow",
        "model": "tiny",
        "model_revision": "abc",
        "threshold": 0.4,
        "calibration": Calibration(2.0, -0.5),
        "extra": {"val_auc": 0.75, "class_names": ["negative", "positive"]},
    }
    return Probe(action=action, **{**values, **more})


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    return all(plain(v) for v in value) if isinstance(value, list) else type(value) in (str, int, float, bool)


def test_the_file_opens_without_pickle_and_has_the_documented_structure(tmp_path: Path) -> None:
    path = probe().save(tmp_path / "probe_positive.pth")
    content = torch.load(path, weights_only=True, map_location="cpu")
    assert set(content) == {"model_state_dict", "model_class", "model_config", "metadata"}
    state = content["model_state_dict"]
    assert set(state) == {"linear.weight", "linear.bias"}
    assert (state["linear.weight"].shape, state["linear.bias"].shape) == ((1, 8), (1,))
    assert {t.dtype for t in state.values()} == {torch.float32}
    assert content["model_class"] == "BinaryLinearProbe"
    assert content["model_config"] == {"input_dim": 8}
    assert METADATA_KEYS | {"val_auc"} <= set(content["metadata"])
    assert content["metadata"]["calibration"] == {"slope": 2.0, "intercept": -0.5}
    assert plain(content["metadata"])
    linear = torch.nn.Linear(8, 1)
    linear.load_state_dict({k.removeprefix("linear."): v for k, v in state.items()})
    X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(linear(X).detach().numpy()[:, 0], probe().logits(X), rtol=1e-5)


def test_a_saved_probe_is_read_back_whole(tmp_path: Path) -> None:
    original = probe()
    back = load_pth(original.save(tmp_path / "x.pth"))
    np.testing.assert_array_equal(back.weight, original.weight)
    for name in (
        "bias",
        "action",
        "layer",
        "block_index",
        "readout",
        "prefix",
        "suffix",
        "template",
        "model",
        "model_revision",
        "threshold",
        "calibration",
        "kind",
        "extra",
    ):
        assert getattr(back, name) == getattr(original, name), name


def test_the_bytes_depend_on_neither_the_file_name_nor_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom strataprobe.probes.probe import Probe\n"
        "p = Probe(np.arange(5, dtype=np.float32), 1.0, 'joy', 2, 1, 'last', extra={'b': 1, 'a': [1.5, 'x']})\n"
        "p.save(sys.argv[1])\n"
    )
    paths = [tmp_path / "one.pth", tmp_path / "a_much_longer_name.pth"]
    for path, salt in zip(paths, ("1", "2"), strict=True):
        env = {**os.environ, "PYTHONHASHSEED": salt, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=env)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_our_number_is_checked_in_either_numbering(tmp_path: Path) -> None:
    path = probe().save(tmp_path / "p.pth")
    assert load_pth(path, layer=3).layer == 3
    assert load_pth(path, layer=2, numbering="brije").layer == 3
    with pytest.raises(ProbeError, match=r"layer 3 \(block index 2\), not of layer 4"):
        load_pth(path, layer=4)


def write_foreign(path: Path, dtype: torch.dtype = torch.bfloat16, model_class: str = "BinaryLinearProbe") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"linear.weight": torch.ones(1, 4, dtype=dtype), "linear.bias": torch.zeros(1, dtype=dtype)}
    metadata = {"action": path.stem.removeprefix("probe_"), "epoch": 3, "val_auc": 0.9}
    torch.save({"model_state_dict": state, "model_class": model_class, "metadata": metadata}, path)
    return path


def test_a_file_without_block_index_counts_layers_as_brije_does(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "layer_26" / "probe_noticing.pth")
    found = load_pth(path)
    assert (found.layer, found.block_index, found.action) == (27, 26, "noticing")
    assert (found.suffix, found.readout, found.threshold) == (COGNITIVE_SUFFIX, "last", 0.5)
    assert (found.calibration, found.weight.dtype) == ((1.0, 0.0), np.float32)
    assert load_pth(path, numbering="strataprobe").layer == 26
    assert load_pth(path, layer=26).layer == 27
    with pytest.raises(ProbeError, match="their layer 26 by its name, not of layer 9"):
        load_pth(path, layer=9)


def test_a_foreign_file_whose_layer_nobody_knows_asks_for_it(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "mine" / "probe_noticing.pth")
    assert load_pth(path, layer=5).layer == 6
    with pytest.raises(ProbeError, match="does not say which layer"):
        load_pth(path)


@needs_brije
@pytest.mark.parametrize("number", [9, 26])
def test_real_probes_of_brije_load(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    probes = load_probe_folder(BRIJE / f"layer_{number}", layer=number)
    assert (len(probes), probes.layer, probes.block_index, probes.width) == (45, number + 1, number, 2560)
    assert probes.class_names == sorted(probes.class_names)
    assert probes.first.suffix == COGNITIVE_SUFFIX
    assert probes.probabilities(np.ones((2, 2560))).shape == (2, 45)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"block index {number}, layer {number + 1} here" in said


@needs_brije
def test_real_sentiment_regression_probes_of_brije_load() -> None:
    probes = load_probe_folder(BRIJE / "sentiment_regression", layer=28)
    assert (probes.layer, probes.class_names, probes["sentiment"].kind) == (29, ["sentiment"], "regression")
    assert probes.first.suffix == SENTIMENT_SUFFIX
    with pytest.raises(ProbeError, match="one layer"):
        load_probe_folder(BRIJE / "sentiment_regression")


def test_a_folder_gives_one_probe_a_class_in_sorted_order(tmp_path: Path) -> None:
    for name in ("joy", "anger"):
        probe(name).save(tmp_path / pth_name(name))
    assert load_probe_folder(tmp_path).class_names == ["anger", "joy"]
    probe("fear", layer=4, block_index=3).save(tmp_path / pth_name("fear"))
    with pytest.raises(ProbeError, match="one layer"):
        load_probe_folder(tmp_path)


def test_class_names_that_no_file_name_can_hold_are_encoded() -> None:
    assert pth_name("cost/benefit") == "probe_cost%2Fbenefit.pth"
    assert pth_name("positive") == "probe_positive.pth"


LONG_NAMES = ("감정" * 60 + "가", "감정" * 60 + "나", "x" * 300, "ü" * 20 + "x", "/" * 41)


@pytest.mark.parametrize("name", LONG_NAMES)
def test_a_long_class_name_is_cut_in_the_file_name_and_whole_in_the_probe(tmp_path: Path, name: str) -> None:
    file_name = pth_name(name)
    assert len(f".{file_name}.tmp".encode()) <= 140
    assert not re.search(r"%(?![0-9A-F]{2})", file_name)
    path = probe(name).save(tmp_path / file_name)
    assert load_pth(path).action == name
    assert load_probe_folder(tmp_path).class_names == [name]


def test_long_class_names_that_begin_alike_have_different_files() -> None:
    assert len({pth_name(name) for name in LONG_NAMES}) == len(LONG_NAMES)
    assert pth_name("x" * 120) == f"probe_{'x' * 120}.pth"


class Payload:
    """Something that runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo unpickled > unpickled.txt",)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": {}, "metadata": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ProbeError, match="more than weights"):
        load_pth(tmp_path / "evil.pth")
    assert not (tmp_path / "unpickled.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not a zip file at all", "cannot be read"),
        (None, "cannot be read"),
        ([1, 2], "holds no probe"),
        ({"model_state_dict": {"encoder.weight": torch.ones(3)}}, "no linear probe"),
        ({"model_state_dict": {"linear.weight": torch.ones(2, 3), "linear.bias": torch.ones(2)}}, "shape"),
        ({"model_state_dict": {"linear.weight": torch.ones(1, 3) / 0, "linear.bias": torch.ones(1)}}, "finite"),
        (
            {
                "model_state_dict": {"linear.weight": torch.ones(1, 3), "linear.bias": torch.ones(1)},
                "metadata": {"block_index": 2},
            },
            "incomplete metadata",
        ),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "probe_x.pth"
    if content is None:
        whole = probe().save(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ProbeError, match=message):
        load_pth(path)


def test_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="not a file"):
        load_pth(tmp_path / "none.pth")
    with pytest.raises(ProbeError, match=r"no \.pth probes"):
        load_probe_folder(tmp_path)
    with pytest.raises(ProbeError, match="not a folder"):
        load_probe_folder(tmp_path / "none")
