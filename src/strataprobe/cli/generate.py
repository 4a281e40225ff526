"""strataprobe generate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import print_json
from strataprobe.errors import OptionError
from strataprobe.recipe import load_recipe


def generate(
    recipe: Annotated[str, typer.Argument(help="Built-in recipe name or a TOML file.")] = "sentiment",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.")] = None,
    backend: o.Backend = "builtin",
    base_url: o.BaseUrl = None,
    llm: o.Llm = None,
    n_per_class: o.NPerClass = None,
    parallel: o.Parallel = 8,
    max_attempts: o.MaxAttempts = 5,
    temperature: o.Temperature = 1.0,
    max_new_tokens: o.MaxNewTokens = 300,
    batch_size: o.BatchSize = "auto",
    timeout: o.Timeout = 120.0,
    judge: o.JudgeModel = None,
    allow_missing: o.AllowMissing = False,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Look over the recipe, show what would be asked, and write nothing.")
    ] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Write labelled texts, already split and grouped, with an audit.

    Example: strataprobe generate sentiment --out outputs/demo/data
    """
    given = dict(locals())
    chosen = load_recipe(recipe)
    if check:
        from strataprobe.cli.recipe_check import print_check
        from strataprobe.generate.recipe_check import check_recipe

        found = check_recipe(chosen, n_per_class=n_per_class, seed=seed)
        print_json(found) if json else print_check(found)
        return
    if out is None:
        raise OptionError("--out is missing: name the folder to write.")
    from strataprobe.generate.run import generate as generate_stage

    manifest = generate_stage(
        chosen,
        out,
        backend=backend,
        n_per_class=n_per_class,
        seed=seed,
        options=o.backend_options(given),
        judge=judge,
        allow_missing=allow_missing,
    )
    if json:
        print_json({"out": str(out), **manifest.model_dump(mode="json")})
        return
    print_result(out, manifest.details)


def print_result(out: Path, details: dict[str, object]) -> None:
    """How many texts of which class are where."""
    counts = details["counts"]
    assert isinstance(counts, dict)
    sizes = set(counts.values())
    if len(counts) > 3 and len(sizes) == 1:
        listed = f"{sizes.pop():,} texts of each of {len(counts)} classes"
    else:
        listed = ", ".join(f"{n:,} {name}" for name, n in counts.items()) + " texts"
    print(f"{listed} in {out} ({details['combined']}, audit.json)")
