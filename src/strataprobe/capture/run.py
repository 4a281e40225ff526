"""The capture stage: labelled texts and a model in, one HDF5 file a layer out.

Layers and ``--eval`` texts that the folder holds already are not captured again; texts, model or options that differ are
refused. Vectors go to shards while the model runs, and shards are closed into layer files at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strataprobe.capture.batches import parse_batch_tokens
from strataprobe.capture.corpus import MAIN, Corpus
from strataprobe.capture.job import CaptureJob, shards_of
from strataprobe.capture.positions import check_readouts
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.dataset import Dataset, read_dataset
from strataprobe.errors import DataError, OptionError, StageError
from strataprobe.locks import release_lock, take_lock
from strataprobe.manifest import Manifest
from strataprobe.models import LoadedModel, load_model, say_choices
from strataprobe.progress import note
from strataprobe.stagefolder import StageFolder
from strataprobe.store import parse_layers, span


def capture_stage(
    data: str | Path,
    model: Any,
    out: Path,
    *,
    tokenizer: Any = None,
    layers: str | Sequence[int] | None = None,
    readouts: Sequence[str] | None = None,
    prefix: str = "",
    suffix: str | None = None,
    template: str = "none",
    max_tokens: int | None = None,
    batch_tokens: int | str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    evals: Mapping[str, Path] | None = None,
    keep_tokens: bool = False,
    seed: int = 0,
) -> Manifest:
    """Capture every layer asked for into ``out``, going on where an interrupted attempt stopped.

    ``data`` is a file of texts or the folder that ``generate`` wrote, whose recipe gives suffix and readouts unless they
    are named. ``readouts`` None is "auto". Layer 0 (embeddings) is always captured. ``keep_tokens`` keeps the vectors of
    every token too, of the same layers. Raises StageError when ``out`` holds activations of other texts, another
    model or other options, and when there is too little disk.
    """
    started_s = time.monotonic()
    # what can be refused before the model is loaded is
    parse_batch_tokens(batch_tokens)
    PromptForm(prefix, suffix or "", template)
    if readouts is not None:
        check_readouts(readouts)
    dataset = read_dataset(data, seed=seed, keep_fields=False)
    loaded = load_model(model, tokenizer, dtype=dtype, device=device)
    say_choices(loaded, dtype, device)
    form = PromptForm(prefix, _choose_suffix(suffix, dataset, loaded), template)
    chosen_readouts = _choose_readouts(readouts, dataset, loaded)
    tokenizer_ = Tokenizer(loaded, form, max_tokens)
    config = {
        "model_revision": loaded.identity.revision,
        "readouts": list(chosen_readouts),
        "prefix": form.prefix,
        "suffix": form.suffix,
        "template": form.template,
        "max_tokens": tokenizer_.max_tokens,
        "dtype": loaded.dtype,
        "class_names": dataset.class_names,
        **({"keep_tokens": True} if keep_tokens else {}),
    }
    main = Corpus(MAIN, dataset, [], keep_tokens)
    manifest = Manifest(
        stage="capture", config=config, inputs={"texts_sha256": main.texts_sha256}, model=loaded.identity
    )
    folder = StageFolder(out, "capture", {**manifest.config, **manifest.inputs})
    try:
        existing = folder.finished()
        _clear_leftovers(folder, existing)
        wanted = sorted({0, *parse_layers(layers, loaded.n_layers)})
        corpora = _to_capture([main, *_eval_corpora(main, evals or {}, seed)], wanted, existing)
        if existing is not None:
            if not corpora:
                held = f"capture: {out} holds layers {span(wanted)} already"
                note(f"{held}; nothing to do ('strataprobe verify' compares every byte).")
                return existing
            fresh = "; ".join(f"{c.name} layers {span(c.layers)}" for c in corpora)
            note(f"capture: {out} is kept; only {fresh} are captured.")
        job = CaptureJob(
            loaded, tokenizer_, form, chosen_readouts, corpora, folder.final, existing, manifest, batch_tokens
        )
        return job.run(started_s)
    finally:
        release_lock(folder.final)


def _choose_suffix(suffix: str | None, dataset: Dataset, model: LoadedModel) -> str:
    if suffix is not None:
        return suffix
    recipe_suffix = dataset.recipe.suffix if dataset.recipe else ""
    if recipe_suffix and model.kind == "encoder":
        note("suffix: none (auto: an encoder reads the whole text at once)")
        return ""
    if recipe_suffix:
        note(f"suffix: {recipe_suffix!r} (auto: the recipe's)")
    return recipe_suffix


def _choose_readouts(readouts: Sequence[str] | None, dataset: Dataset, model: LoadedModel) -> tuple[str, ...]:
    if readouts is not None:
        return check_readouts(readouts)
    if model.kind == "encoder":
        note("readout: mean (auto: the model is an encoder)")
        return model.default_readouts
    chosen = tuple(dataset.recipe.readouts) if dataset.recipe else model.default_readouts
    note(f"readout: {', '.join(chosen)} (auto: the model is a decoder; the first is the primary one)")
    return chosen


def _eval_corpora(main: Corpus, evals: Mapping[str, Path], seed: int) -> list[Corpus]:
    dataset, corpora = main.dataset, []
    for name, path in sorted(evals.items()):
        if not name.replace("-", "").replace("_", "").isalnum():
            raise OptionError(f"--eval {name!r}: the name may hold only letters, digits, '_' and '-'.")
        found = read_dataset(path, dataset.recipe, seed, keep_fields=False)
        unknown = sorted(set(found.class_names) - set(dataset.class_names))
        if unknown:
            raise DataError(f"{path} has the class {unknown[0]!r}, the texts have {', '.join(dataset.class_names)}.")
        texts = Dataset(name, found.rows, dataset.class_names, dataset.recipe)
        corpora.append(Corpus(f"eval_{name}", texts, [], main.keep_tokens))
    return corpora


def _to_capture(corpora: list[Corpus], layers: list[int], existing: Manifest | None) -> list[Corpus]:
    """What is still to be captured. Raises StageError when an eval name stands for other texts in the folder."""
    held = existing.details["captured"] if existing else {}
    for corpus in corpora:
        have = held.get(corpus.name)
        if have and have["texts_sha256"] != corpus.texts_sha256:
            raise StageError(
                f"eval set {corpus.eval_name!r} was captured from other texts: give it another name, or "
                "capture into another folder."
            )
        corpus.layers = sorted(set(layers) - set(have["layers"] if have else ()))
    return [c for c in corpora if c.layers]


def _clear_leftovers(folder: StageFolder, existing: Manifest | None) -> None:
    """Remove what a kill in the last moment, after everything was in place, left behind."""
    leftovers = [path for path in (folder.work, shards_of(folder.final)) if path.exists()]
    if not leftovers:
        return
    take_lock(folder.final)  # without a key, too: another process may be about to write one
    pending = folder.pending_key()
    held = existing.details["captured"] if existing else {}
    todo = pending["captured"].items() if pending else ()
    if all(set(job["layers"]) <= set(held.get(name, {"layers": ()})["layers"]) for name, job in todo):
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        release_lock(folder.final)
