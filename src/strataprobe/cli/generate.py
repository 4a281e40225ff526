"""strataprobe generate"""

from __future__ import annotations

from typing import Annotated

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import print_json
from strataprobe.recipe import load_recipe


def generate(
    out: o.Out,
    recipe: Annotated[str, typer.Argument(help="Built-in recipe name or a TOML file.")] = "sentiment",
    backend: Annotated[str, typer.Option("--backend", help="Who writes the texts: builtin.")] = "builtin",
    n_per_class: Annotated[int | None, typer.Option("--n-per-class", help="Texts a class; the recipe's.")] = None,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Write labelled texts, already split and grouped, with an audit.

    Example: strataprobe generate sentiment --out outputs/demo/data
    """
    from strataprobe.generate.run import generate as generate_stage

    manifest = generate_stage(load_recipe(recipe), out, backend=backend, n_per_class=n_per_class, seed=seed)
    if json:
        print_json({"out": str(out), **manifest.model_dump(mode="json")})
        return
    counts = ", ".join(f"{n:,} {name}" for name, n in manifest.details["counts"].items())
    print(f"{counts} texts in {out} ({manifest.details['combined']}, audit.json)")
