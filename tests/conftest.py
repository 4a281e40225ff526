"""What every test shares: no network, a home of its own, the tiny models, and the real texts where they are there."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read by the hub library when it is first imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="strataprobe-tests-")
os.environ.pop("HF_TOKEN", None)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parent.parent
for folder in (REPO / "tests", REPO / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

settings.register_profile(
    "strataprobe",
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("strataprobe")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder that only this test session sees."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """No network, no login, no cache of the user's; notes are on again for the next test."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield
    from strataprobe.progress import set_quiet

    set_quiet(False)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real texts, which is no part of the repository: STRATAPROBE_DATA, or shared/data beside it."""
    folder = Path(os.environ.get("STRATAPROBE_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set STRATAPROBE_DATA to the folder of real texts")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Any:
    """``tiny(family)``: a loaded model of that family, three blocks, built once a session. Leave its weights alone."""
    from builders import tiny_model
    from strataprobe.models import LoadedModel, wrap_model

    built: dict[str, LoadedModel] = {}

    def of(family: str) -> LoadedModel:
        if family not in built:
            built[family] = wrap_model(*tiny_model(family))
        return built[family]

    return of


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of six blocks, as ``--model`` takes it."""
    from builders import save_model

    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", n_layers=6)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of thirty labelled texts."""
    from stage_runs import write_texts

    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture(scope="session")
def more_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of nine other texts."""
    from stage_runs import write_texts

    return write_texts(tmp_path_factory.mktemp("texts") / "more.jsonl", 9, "snow lamp drive coffee table coat")


@pytest.fixture(scope="session")
def whole(texts: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data files of an uninterrupted capture of layers 1 to 6 of these texts."""
    from stage_runs import data_files, stage

    out = tmp_path_factory.mktemp("whole") / "activations"
    stage(texts, llama_folder, out)
    return data_files(out)
