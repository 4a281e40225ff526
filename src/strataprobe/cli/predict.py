"""strataprobe predict"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import print_json
from strataprobe.errors import DataError, OptionError
from strataprobe.progress import note

if TYPE_CHECKING:
    from strataprobe.content import Content
    from strataprobe.predict.inference import MultiProbeInference, UniversalMultiLayerInference

_CHUNK = 2048
_MOST_LAYERS = 10_000
_METHODS = ("mean", "vote", "stacked")
# (place in the file, what is read there), for messages that name it
Placed = tuple[str, "Content"]
Predictor = Callable[[list[Placed]], list[dict[str, Any]]]


def predict(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to read.")] = None,
    probes: Annotated[
        list[Path] | None,
        typer.Option("--probes", help="Folder that 'train' wrote, or one of its layer_K folders; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model id, local folder, or 'demo'; the one the probes name.")
    ] = None,
    layer: o.Layer = None,
    ensemble: Annotated[
        str | None, typer.Option("--ensemble", help="Several layers together, such as 24,26,28.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="How layers are combined: mean, vote or stacked.")] = "mean",
    file: Annotated[
        str | None, typer.Option("--file", help="Texts from a .jsonl, .csv, .parquet or .txt file, or - for stdin.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Only the K likeliest classes.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Probability from which a class is active; the probe's own.")
    ] = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Score text with one layer or several: one line a text, or with --json one JSON object a line.

    Example: strataprobe predict "What a day, everything came together." --probes outputs/demo/probes --model demo
    """
    if not probes:
        raise OptionError("--probes is missing: name the folder that 'train' wrote, such as outputs/demo/probes.")
    if bool(texts) == (file is not None):
        raise OptionError("give texts on the command line or with --file, one of the two.")
    if layer is not None and ensemble is not None:
        raise OptionError("--layer and --ensemble exclude each other: name one layer or several.")
    if method not in _METHODS:
        raise OptionError(f"--method {method!r} is none of {', '.join(_METHODS)}.")
    if method != "mean" and ensemble is None:
        raise OptionError(f"--method {method} combines layers: name them with --ensemble, such as 24,26,28.")
    if top_k is not None and top_k < 1:
        raise OptionError("--top-k must be at least 1; leave it out for all classes.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise OptionError(f"--threshold {threshold} is not a probability: use a number between 0 and 1.")
    from strataprobe.content import text_of

    source = iter([(f"text {i}", text) for i, text in enumerate(texts)]) if texts else _texts_of(str(file))
    predictors = _predictors(probes, model, layer, ensemble, method, top_k, threshold, dtype, device)
    while chunk := list(islice(source, _CHUNK)):
        found = {name: predictor(chunk) for name, predictor in predictors.items()}
        for i, (_, content) in enumerate(chunk):
            text = text_of(content)
            by_set = {name: rows[i] for name, rows in found.items()}
            document = {"text": text, **(next(iter(by_set.values())) if len(by_set) == 1 else {"sets": by_set})}
            if json:
                print_json(document, indent=None)
            else:
                _print_text(text, by_set)


def _predictors(
    folders: list[Path],
    model: str | None,
    layer: int | None,
    ensemble: str | None,
    method: str,
    top_k: int | None,
    threshold: float | None,
    dtype: str,
    device: str,
) -> dict[str, Predictor]:
    """For each probe set by name: texts to ``{"predictions", "layers"}``."""
    from strataprobe.predict.inference import MultiProbeInference, UniversalMultiLayerInference
    from strataprobe.probes.probe import REGRESSION
    from strataprobe.store import parse_layers

    predictors: dict[str, Predictor] = {}
    for folder in folders:
        if ensemble is None:
            one = MultiProbeInference(folder, model, layer, dtype=dtype, device=device)
            if threshold is not None and one.probes.first.kind == REGRESSION:
                raise OptionError(f"--threshold is a probability, and {folder} gives values: leave it out.")
            if layer is None:
                note(f"layer {one.layer} (auto: {one.source.best_reason})")
            predictors[_name_of(folder, predictors)] = _single(one, top_k, threshold)
        else:
            wanted = parse_layers(ensemble, _MOST_LAYERS)
            many = UniversalMultiLayerInference(model, dict.fromkeys(wanted, folder), dtype=dtype, device=device)
            predictors[_name_of(folder, predictors)] = _several(many, method, top_k, threshold)
    return predictors


def _single(one: MultiProbeInference, top_k: int | None, threshold: float | None) -> Predictor:
    def predictor(placed: list[Placed]) -> list[dict[str, Any]]:
        rows = one.predict_batch([content for _, content in placed], top_k, threshold, lambda i: placed[i][0])
        return [{"predictions": row, "layers": [one.layer]} for row in rows]

    return predictor


def _several(many: UniversalMultiLayerInference, method: str, top_k: int | None, threshold: float | None) -> Predictor:
    def predictor(placed: list[Placed]) -> list[dict[str, Any]]:
        texts = [content for _, content in placed]
        rows = many.predict_ensemble_batch(texts, method, top_k, threshold, lambda i: placed[i][0])
        return [{"predictions": row, "layers": list(many.layers.values())} for row in rows]

    return predictor


def _name_of(folder: Path, taken: dict[str, Predictor]) -> str:
    """A short name for a probe set: its folder, with as many parents as keep it apart from the others."""
    parts = folder.resolve().parts
    for n in range(1, len(parts)):
        name = "/".join(parts[-n:])
        if name not in taken and name != "probes":
            return name
    return str(folder)


def _texts_of(file: str) -> Iterator[Placed]:
    """Texts and conversations of a file, or of standard input, each with its place. All are checked before the first."""
    from strataprobe.content import content_of
    from strataprobe.textfiles import iter_rows, parse_jsonl, split_lines

    if file != "-":
        found: list[Placed] = [(place, content_of(row, place)) for place, row in iter_rows(Path(file))]
    else:
        lines = split_lines(sys.stdin.read())
        if lines and lines[0].lstrip().startswith("{"):
            found = [(place, content_of(row, place)) for place, row in parse_jsonl(lines, "standard input")]
        else:
            found = [(f"standard input, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DataError(f"{'standard input' if file == '-' else file} holds no texts.")
    return iter(found)


def _print_text(text: str, by_set: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console

    shown = " ".join(text.split())
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(shown if len(shown) <= 100 else shown[:97] + "...", style="bold")
    for name, result in by_set.items():
        where = ",".join(str(k) for k in result["layers"])
        label = f"{name}, " if len(by_set) > 1 else ""
        for row in result["predictions"][:5]:
            value = row.get("probability", row.get("value"))
            bar = "█" * round(20 * value) if "probability" in row else ""
            console.print(
                f"  {row['action']:<24} {value:6.3f} {bar:<20} {'active' if row.get('active') else ''}".rstrip()
            )
        console.print(f"  ({label}layer{'s' if len(result['layers']) > 1 else ''} {where})", style="dim")
