"""The compare stage: probe sets and the activations they were trained on -> comparison, figure and report.

No model is read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strataprobe.compare.document import FORMAT_VERSION, Sources, build_document
from strataprobe.compare.figures import layer_comparison_png
from strataprobe.compare.layers import layer_keys, measure_layers, read_test_rows
from strataprobe.compare.published import PUBLISHED_BLOCKS, read_published
from strataprobe.compare.report import report_html
from strataprobe.compare.reproduce import Reproduction, reproduction
from strataprobe.compare.sets import FORMAT_VERSION as SETS_VERSION
from strataprobe.compare.sets import Member, sets_document, unique_names
from strataprobe.compare.sets_figure import sets_png
from strataprobe.compare.sets_page import sets_html
from strataprobe.compare.wrong import wrong_examples
from strataprobe.errors import OptionError, ProbeError, StageError
from strataprobe.manifest import (
    Manifest,
    library_versions,
    read_json,
    record_files,
    write_atomic,
    write_json,
)
from strataprobe.probes.files import TrainedProbes, load_oof, load_probes
from strataprobe.probes.probe import REGRESSION
from strataprobe.progress import note
from strataprobe.recipe import Recipe, builtin_recipes, load_recipe
from strataprobe.store import ActivationFolder

COMPARISON_NAME = "comparison.json"
REPORT_NAME = "report.html"
_LONGEST_NAMES = 120
# What stands in for the name of the recipe where there is none.
_NO_RECIPE = "texts"
_FILE_NAME_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def compare(
    probes: Sequence[str | Path],
    out: str | Path,
    *,
    activations: Sequence[str | Path] | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    published: Sequence[str | Path] = (),
    published_blocks: int = PUBLISHED_BLOCKS,
) -> dict[str, Any]:
    """Compare the layers of a probes folder; write ``comparison.json``, the PNG and ``report.html`` into ``out``.

    ``activations`` default to the folder of that name beside the probes. ``recipe`` is only needed for the lexicon of a
    recipe that is not built in. The same inputs and ``seed`` give the same files but for ``elapsed_s``; when they are
    there already, nothing is computed. Returns the comparison document.

    Several probes folders are each compared so in a folder of ``out`` of their own, and then side by side in ``out``;
    so are figures that others ``published`` (see ``read_published``), with or without probes of ours.
    Raises OptionError when there is nothing to compare or the activations do not match the probes in number, StageError
    when a folder is not usable or the activations are not those the probes were trained on, DataError for published
    figures that cannot be read.
    """
    out = Path(out)
    _check_counts(probes, activations, published)
    theirs = [read_published(path, published_blocks) for path in published]
    given: Sequence[str | Path | None] = activations if activations else [None] * len(probes)
    opened = [open_sources(Path(path), beside, recipe) for path, beside in zip(probes, given, strict=True)]
    if len(opened) == 1 and not theirs:
        return _compare_one(opened[0], Path(probes[0]), out, seed)
    _check_not_a_run(out / COMPARISON_NAME)
    names = unique_names([sources.name for sources in opened])
    members = [
        Member(name, sources, _compare_one(sources, Path(path), out / name, seed))
        for name, sources, path in zip(names, opened, probes, strict=True)
    ]
    again = reproduction(
        [(m.name, Path(path), m.sources.folder.path) for m, path in zip(members, probes, strict=True)],
        [(p["name"], Path(path)) for p, path in zip(theirs, published, strict=True)],
        published_blocks,
        seed=seed,
    )
    return _compare_sets(members, theirs, out, seed, again)


def _check_counts(
    probes: Sequence[str | Path], activations: Sequence[str | Path] | None, published: Sequence[str | Path]
) -> None:
    if not probes and not published:
        raise OptionError("there is nothing to compare: give --probes DIR, or --published FILE.")
    if activations and len(activations) != len(probes):
        raise OptionError(
            f"there are {len(probes)} probes folders and {len(activations)} folders of activations: give --activations "
            "once for each --probes, in the same order, or not at all."
        )
    for option, paths in (("--probes", probes), ("--published", published)):
        seen = [Path(path).resolve() for path in paths]
        twice = next((path for path in seen if seen.count(path) > 1), None)
        if twice is not None:
            raise OptionError(f"{option} {twice} is given twice: give each once.")


def _check_not_a_run(path: Path) -> None:
    """Raise OptionError when the comparison of one set, which prediction reads, would be lost."""
    try:
        document = read_json(path)
    except StageError:
        return
    if isinstance(document, dict) and "best_layer" in document:
        raise OptionError(f"{path} is the comparison of one set, as 'run' writes it: choose another --out for several.")


def _compare_one(sources: Sources, probes: Path, out: Path, seed: int) -> dict[str, Any]:
    started_s = time.monotonic()
    inputs = {
        "probes": _digest(sources.probes.manifest, probes),
        "activations": _digest(sources.folder.manifest, sources.folder.path),
    }
    known = sources.recipe.to_json() if sources.recipe else None
    config = {"seed": seed, "recipe": known, "format_version": FORMAT_VERSION}
    picture = out / f"{sources.name}_layer_comparison.png"
    paths = (out / COMPARISON_NAME, picture, out / REPORT_NAME)
    done = _finished(paths, inputs, config)
    if done is not None:
        note(f"compare: {paths[0]} is up to date with these probes, skipped")
        return done
    measured = measure_layers(sources.probes, sources.folder, seed=seed)
    rows = read_test_rows(sources.folder, sources.probes.layers[-1])
    document = build_document(sources, measured, rows, seed)
    document |= {"inputs": inputs, "config": config, "versions": library_versions()}
    document["elapsed_s"] = time.monotonic() - started_s
    _make_folder(out)
    write_atomic(picture, layer_comparison_png(document))
    examples = wrong_examples(document, measured, rows, sources.folder.texts())
    again = reproduction([(sources.name, probes, sources.folder.path)], seed=seed)
    write_atomic(paths[2], report_html(document, examples, _audit_beside(sources.folder.path), again))
    write_json(paths[0], document)
    return document


def _compare_sets(
    members: Sequence[Member], published: Sequence[dict[str, Any]], out: Path, seed: int, again: Reproduction
) -> dict[str, Any]:
    started_s = time.monotonic()
    inputs = {f"{m.name}: {kind}": digest for m in members for kind, digest in m.document["inputs"].items()}
    inputs |= {f"published {i}: {p['name']}": p["sha256"] for i, p in enumerate(published, start=1)}
    depths = [p["n_layers"] for p in published]
    config = {"seed": seed, "format_version": SETS_VERSION, "sets_format_version": FORMAT_VERSION, "blocks": depths}
    picture = out / f"{_picture_name([m.name for m in members] or [p['name'] for p in published])}.png"
    paths = (out / COMPARISON_NAME, picture, out / REPORT_NAME)
    done = _finished(paths, inputs, config)
    if done is not None:
        note(f"compare: {paths[0]} is up to date with these probes, skipped")
        return done
    document = sets_document(members, published, seed=seed)
    document |= {"inputs": inputs, "config": config, "versions": library_versions()}
    document["elapsed_s"] = time.monotonic() - started_s
    _make_folder(out)
    write_atomic(picture, sets_png(document))
    write_atomic(paths[2], sets_html(document, again))
    write_json(paths[0], document)
    return document


def _picture_name(names: Sequence[str]) -> str:
    """The stem of the figure's name: the names of the sets, so far as a file name has room."""
    joined = "_".join(name if _FILE_NAME_SAFE.fullmatch(name) else _NO_RECIPE for name in names)
    return f"{joined[:_LONGEST_NAMES]}_layer_comparison"


def open_sources(path: Path, activations: str | Path | None = None, recipe: Recipe | None = None) -> Sources:
    """A probes folder and its activations, checked to belong together.

    Raises StageError as ``compare``, and ProbeError for probes of values.
    """
    trained = load_probes(path)
    if any(probes.first.kind == REGRESSION for probes in trained.sets.values()):
        raise ProbeError(
            f"the probes of {path} give values, and compare ranks probes of classes: their measures are in each layer's "
            "aggregate_metrics.json, and 'strataprobe evaluate' takes them on other text."
        )
    beside = Path(activations) if activations else path.resolve().parent / "activations"
    if not activations and not beside.is_dir():
        raise StageError(f"{path} has no folder 'activations' beside it: say where they are with --activations DIR.")
    folder = ActivationFolder.open(beside, trained.manifest.config.get("numbering", "strataprobe"))
    check_trained_on(trained, folder, path)
    name = recipe.name if recipe else str(trained.info.get("recipe_name") or folder.info["recipe_name"])
    if name and not _FILE_NAME_SAFE.fullmatch(name):
        note(f"compare: the recipe name {name!r} in {path} cannot be part of a file name, '{_NO_RECIPE}' is used")
        name = ""
    if recipe is None and name in builtin_recipes():
        recipe = load_recipe(name)
    if not layer_keys(trained):
        raise StageError(f"{path} holds no probes of a layer from 1 on: train some first.")
    return Sources(trained, load_oof(path), folder, recipe, name or _NO_RECIPE)


def check_trained_on(probes: TrainedProbes, folder: ActivationFolder, path: Path) -> None:
    """Raise StageError when ``folder`` is not what the probes were trained on."""
    if folder.class_names != probes.class_names:
        raise StageError(
            f"{folder.path} has the classes {', '.join(folder.class_names)}, the probes of {path} "
            f"{', '.join(probes.class_names)}: give the activations these probes were trained on."
        )
    for layer in probes.layers:
        name = folder.file(layer).name
        if probes.manifest.inputs.get(name, "") not in ("", folder.file_sha256(layer)):
            raise StageError(
                f"{folder.path / name} is not what {path} was trained on (sha256 differs): give the "
                "activations these probes were trained on, or train again."
            )


def _digest(manifest: Manifest | None, path: Path) -> str:
    """A digest of a stage folder's files, from its manifest where there is one."""
    return manifest.files_sha256 if manifest else Manifest(stage="", config={}, files=record_files(path)).files_sha256


def _finished(paths: Sequence[Path], inputs: dict[str, str], config: dict[str, Any]) -> dict[str, Any] | None:
    """The document that is there already, None where it was made from something else or cannot be read."""
    if not all(path.is_file() for path in paths):
        return None
    try:
        document = read_json(paths[0])
    except StageError:
        note(f"compare: {paths[0]} cannot be read, it is written again")
        return None
    same = isinstance(document, dict) and document.get("inputs") == inputs and document.get("config") == config
    if not same or document.get("versions") != library_versions():
        return None
    return dict(document)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StageError(f"{out} could not be made: {error.strerror or error}; choose another --out.") from error


def _audit_beside(activations: Path) -> dict[str, Any] | None:
    """The data audit of the same run, where there is one."""
    path = activations.resolve().parent / "data" / "audit.json"
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) else None
