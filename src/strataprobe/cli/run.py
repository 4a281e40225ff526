"""strataprobe run"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from strataprobe.cli import options as o
from strataprobe.cli.compare import print_comparison
from strataprobe.cli.output import print_json, print_table
from strataprobe.errors import OptionError
from strataprobe.progress import note
from strataprobe.recipe import load_recipe


def run(
    context: typer.Context,
    out: o.Out,
    model: Annotated[
        str | None, typer.Option("--model", help="Model id, local folder, or 'demo'; the recipe's unless given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Argument(help="Built-in recipe name or a TOML file; sentiment unless --data is given.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Your own labelled texts instead of generated ones.")
    ] = None,
    n_per_class: o.NPerClass = None,
    backend: o.Backend = "builtin",
    base_url: o.BaseUrl = None,
    llm: o.Llm = None,
    parallel: o.Parallel = 8,
    max_attempts: o.MaxAttempts = 5,
    temperature: o.Temperature = 1.0,
    max_new_tokens: o.MaxNewTokens = 300,
    batch_size: o.BatchSize = "auto",
    timeout: o.Timeout = 120.0,
    judge: o.JudgeModel = None,
    allow_missing: o.AllowMissing = False,
    layers: o.Layers = None,
    evals: o.Eval = None,
    backup: Annotated[
        Path | None, typer.Option("--backup", help="Copy each finished stage here, and restore from here on start.")
    ] = None,
    readout: o.Readout = "auto",
    suffix: o.Suffix = None,
    prefix: o.Prefix = "",
    template: o.Template = "none",
    max_tokens: o.MaxTokens = None,
    batch_tokens: o.BatchTokens = "auto",
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    keep_tokens: o.KeepTokens = False,
    probe: Annotated[
        str, typer.Option("--probe", help="logistic, mass-mean, mass-mean-iid, ridge or multihead.")
    ] = "logistic",
    folds: o.Folds = 5,
    cs: o.Cs = None,
    class_weight: o.ClassWeight = "none",
    target: o.Target = None,
    epochs: o.Epochs = None,
    learning_rate: o.LearningRate = None,
    weight_decay: o.WeightDecay = None,
    train_batch_size: Annotated[
        int | None, typer.Option("--train-batch-size", min=1, help="multihead: rows a step; 32.")
    ] = None,
    early_stopping_patience: o.EarlyStoppingPatience = None,
    fpr: o.Fpr = None,
    calibration: o.CalibrationMethod = "platt",
    train_device: Annotated[
        str, typer.Option("--train-device", help="Where probes are fitted: auto, cpu, cuda.")
    ] = "auto",
    seed: o.Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take, and run nothing.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """The whole job: generate, capture, train and compare, into one folder.

    Example: strataprobe run sentiment --model demo --out outputs/demo
    """
    given = dict(locals())
    from strataprobe.pipeline import RunOptions
    from strataprobe.pipeline import run as run_pipeline

    o.say_answers(context)
    training = _training(given)
    name = recipe if recipe is not None else (None if data is not None else "sentiment")
    chosen = None if name is None else load_recipe(name)
    if data is not None and n_per_class is not None:
        raise OptionError("--n-per-class is for generated texts: leave it out with --data.")
    if model is None and chosen is None:
        raise OptionError("--model is missing: name a model id, a folder, or 'demo'.")
    if model is None and chosen is not None:
        note(f"model: {chosen.model} (auto: the recipe's)")
        model = chosen.model
    options = RunOptions(
        recipe=chosen,
        model=model,
        out=out,
        data=data,
        n_per_class=n_per_class,
        backend=backend,
        writing=o.backend_options(given),
        judge=judge,
        allow_missing=allow_missing,
        layers=layers,
        evals=o.parse_evals(evals),
        backup=backup,
        seed=seed,
        readouts=o.parse_readouts(readout),
        prefix=o.unescape(prefix) or "",
        suffix=o.unescape(suffix),
        template=template,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        dtype=dtype,
        device=device,
        keep_tokens=keep_tokens,
        probe=probe,
        training=training,
    )
    if dry_run:
        from strataprobe.estimate import estimate

        _print_estimate(estimate(options), json)
        return
    document = run_pipeline(options)
    if json:
        print_json(document)
        return
    print_comparison(document["comparison"])
    _print_paths(out, str(model))


def _training(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the train stage among the command's own, refused here rather than after hours of reading."""
    from strataprobe.probes.calibration import CalibrationRule
    from strataprobe.probes.families import get_family
    from strataprobe.probes.run import device_for_fits

    if given["probe"] == "joint":
        raise OptionError(
            "joint probes are of several recipes: capture each, then use 'strataprobe train --probe joint'."
        )
    options = o.train_options(given | {"batch_size": given["train_batch_size"], "device": given["train_device"]})
    get_family(given["probe"], options)
    device_for_fits(given["train_device"])
    rule = CalibrationRule(given["calibration"], given["fpr"])
    return {"folds": given["folds"], "device": given["train_device"], "options": options, "calibration": rule}


def _print_estimate(found: dict[str, Any], json: bool) -> None:
    if json:
        print_json(found)
        return
    print_table("", ["what it would take", ""], [[k.replace("_", " "), _shown(k, v)] for k, v in found.items()])


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    if name.endswith("_s"):
        return f"{value:,.0f} s"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_paths(out: Path, model: str) -> None:
    print()
    for name in ("data", "activations", "probes"):
        print(f"{name:<12} {out / name}")
    for path in sorted(out.glob("*_layer_comparison.png")):
        print(f"{'figure':<12} {path}")
    print(f"{'report':<12} {out / 'report.html'}")
    print(f'{"next":<12} strataprobe predict "..." --probes {quote(str(out / "probes"))} --model {quote(model)}')
