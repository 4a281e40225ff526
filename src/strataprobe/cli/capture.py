"""strataprobe capture"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import print_json


def capture(
    data: Annotated[Path, typer.Option("--data", help="File of labelled texts, or the folder 'generate' wrote.")],
    model: o.Model,
    out: o.Out,
    layers: o.Layers = None,
    readout: o.Readout = "auto",
    suffix: o.Suffix = None,
    prefix: o.Prefix = "",
    template: o.Template = "none",
    max_tokens: o.MaxTokens = None,
    batch_tokens: o.BatchTokens = "auto",
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    evals: o.Eval = None,
    keep_tokens: o.KeepTokens = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Read the residual stream of every layer in one pass, one HDF5 file a layer.

    Example: strataprobe capture --data outputs/demo/data --model demo --out outputs/demo/activations
    """
    from strataprobe.capture.run import capture_stage
    from strataprobe.store import span

    manifest = capture_stage(
        data,
        model,
        out,
        layers=layers,
        readouts=o.parse_readouts(readout),
        prefix=o.unescape(prefix) or "",
        suffix=o.unescape(suffix),
        template=template,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        dtype=dtype,
        device=device,
        evals=o.parse_evals(evals),
        keep_tokens=keep_tokens,
        seed=seed,
    )
    if json:
        print_json({"out": str(out), **manifest.model_dump(mode="json")})
        return
    for name, captured in manifest.details["captured"].items():
        print(f"{out}: {name}, {captured['n_texts']:,} texts, layers {span(captured['layers'])}")
