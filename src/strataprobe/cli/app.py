"""The list of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from strataprobe import __version__
from strataprobe.cli import calibrate, capture, check, compare, evaluate, generate, predict, run, train, verify

app = typer.Typer(
    name="strataprobe",
    help="Train, compare and use probes on every layer of a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"strataprobe {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, compare and use probes on every layer of a language model."""


for verb in (run.run, generate.generate, capture.capture, train.train, compare.compare, predict.predict):
    app.command(no_args_is_help=verb is not run.run)(verb)
app.command(no_args_is_help=True)(evaluate.evaluate)
app.command(no_args_is_help=True)(calibrate.calibrate)
app.command(no_args_is_help=True)(check.check)
app.command(no_args_is_help=True)(verify.verify)
