"""The whole job: generate, capture, train, compare, in one output folder, and ``run.json`` that says how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from strataprobe.backup import Backup
from strataprobe.dataset import check_trainable, read_dataset
from strataprobe.errors import LoginError, StageError, StrataprobeError
from strataprobe.generate.backends import BackendOptions
from strataprobe.manifest import library_versions, write_json
from strataprobe.models import LoadedModel, load_model, resolve
from strataprobe.progress import note
from strataprobe.recipe import Recipe

STAGES = ("data", "activations", "probes")
CHECKS = (
    "device_found",
    "login",
    "texts_complete",
    "layers_captured",
    "trained",
    "figure_made",
    "backup_made",
)
_T = TypeVar("_T")


@dataclass
class RunOptions:
    """Everything ``run`` takes. None and "auto" mean what the stages choose by themselves.

    ``training`` holds further arguments of ``train``: folds, device, options, calibration.
    """

    recipe: Recipe | None
    model: Any
    out: Path
    data: Path | None = None
    n_per_class: int | None = None
    backend: str = "builtin"
    writing: BackendOptions = field(default_factory=BackendOptions)
    judge: str | None = None
    allow_missing: bool = False
    layers: str | None = None
    evals: Mapping[str, Path] = field(default_factory=dict)
    backup: Path | None = None
    seed: int = 0
    readouts: Sequence[str] | None = None
    prefix: str = ""
    suffix: str | None = None
    template: str = "none"
    max_tokens: int | None = None
    batch_tokens: int | str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    keep_tokens: bool = False
    probe: str = "logistic"
    training: Mapping[str, Any] = field(default_factory=dict)


class _Run:
    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.out = options.out
        self.document: dict[str, Any] = {"checks": {}, "messages": {}, "stages": {}, "versions": library_versions()}
        self.backup: Backup | None = None

    def step(self, check: str, stage: str | None, do: Callable[[], _T]) -> _T:
        """Do one step, note its seconds, and record whether it went well; an error is recorded and raised again."""
        started_s = time.monotonic()
        try:
            result = do()
        except StrataprobeError as error:
            self.document["checks"].setdefault(check, "failed")
            self.document["messages"][check] = str(error)
            with suppress(StageError):  # the error itself is what the user needs to see
                self.save()
            raise
        self.document["checks"].setdefault(check, "ok")
        if stage is not None:
            self.document["stages"][stage] = {"elapsed_s": round(time.monotonic() - started_s, 2)}
            if self.backup is not None and stage in STAGES:
                self.step("backup_made", None, partial(self.backup.save_stage, stage))
        return result

    def save(self) -> None:
        """Write run.json: every check with its state; a step that was not reached has failed."""
        checks = {name: self.document["checks"].get(name, "failed") for name in CHECKS}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(f"{self.out} cannot be made ({error.strerror or error}): choose another --out.") from error
        write_json(self.out / "run.json", {**self.document, "checks": checks})

    def load(self) -> LoadedModel:
        options = self.options
        checks = self.document["checks"]
        hub = isinstance(options.model, (str, Path)) and not Path(resolve(options.model)[0]).is_dir()
        try:
            loaded = load_model(options.model, dtype=options.dtype, device=options.device)
        except LoginError:
            checks["device_found"], checks["login"] = "ok", "failed"
            raise
        checks["login"] = "ok" if hub and _has_token() else "not needed"
        return loaded


def run(options: RunOptions) -> dict[str, Any]:
    """Generate (or take over), capture, train and compare into ``options.out``; stages that are finished are skipped.

    Returns the contents of run.json: ``checks`` (each "ok", "failed" or "not needed"), ``stages`` with their seconds,
    ``best_layer``, and ``comparison``, the document of the comparison. Raises what the stages raise, after run.json has
    recorded it.
    """
    from strataprobe.capture.run import capture_stage
    from strataprobe.compare.run import compare
    from strataprobe.generate.adopt import adopt
    from strataprobe.generate.run import generate
    from strataprobe.probes.run import train

    job = _Run(options)
    out = options.out
    if options.backup is None:
        job.document["checks"]["backup_made"] = "not needed"
    else:
        job.backup = job.step("backup_made", None, partial(_restored, options.backup, out))
    loaded = job.step("device_found", "model", job.load)
    data, activations, probes = (out / name for name in STAGES)

    def texts() -> Any:
        if options.data is not None:
            return adopt(options.data, data, recipe=options.recipe, seed=options.seed)
        assert options.recipe is not None
        return generate(
            options.recipe,
            data,
            backend=options.backend,
            n_per_class=options.n_per_class,
            seed=options.seed,
            options=_writing(options),
            judge=options.judge,
            allow_missing=options.allow_missing,
        )

    def texts_that_can_be_trained_on() -> Any:
        manifest = texts()
        check_trainable(read_dataset(data, keep_fields=False), str(options.data or data))
        return manifest

    def vectors() -> Any:
        return capture_stage(
            data,
            loaded,
            activations,
            layers=options.layers,
            readouts=options.readouts,
            prefix=options.prefix,
            suffix=options.suffix,
            template=options.template,
            max_tokens=options.max_tokens,
            batch_tokens=options.batch_tokens,
            dtype=options.dtype,
            device=options.device,
            evals=options.evals,
            keep_tokens=options.keep_tokens,
            seed=options.seed,
        )

    job.step("texts_complete", "data", texts_that_can_be_trained_on)
    job.step("layers_captured", "activations", vectors)
    job.step(
        "trained",
        "probes",
        lambda: train(activations, probes, probe=options.probe, seed=options.seed, **options.training),
    )
    comparison = job.step(
        "figure_made",
        "compare",
        lambda: compare([probes], out, activations=[activations], seed=options.seed, recipe=options.recipe),
    )
    job.document["best_layer"] = comparison["best_layer"]
    if job.backup is not None:
        results = [p for p in out.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != "run.json"]
        job.step("backup_made", None, partial(job.backup.save_files, results))
    job.save()
    if job.backup is not None:
        job.backup.save_files([out / "run.json"])
    return {**job.document, "comparison": comparison}


def _writing(options: RunOptions) -> BackendOptions:
    """The writing options; in process, the model that is probed writes unless another is named."""
    if options.backend != "transformers" or options.writing.llm or not isinstance(options.model, (str, Path)):
        return options.writing
    note(f"llm: {options.model} (auto: the model that is probed)")
    return replace(options.writing, llm=str(options.model))


def _restored(folder: Path, out: Path) -> Backup:
    """The backup, after it has brought back what ``out`` lacks."""
    backup = Backup(folder, out)
    backup.restore(STAGES)
    return backup


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None
