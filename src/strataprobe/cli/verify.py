"""strataprobe verify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strataprobe.cli import USER_CAN_MEND
from strataprobe.cli import options as o
from strataprobe.cli.output import print_json
from strataprobe.manifest import read_manifest, verify_folder


def verify(
    folder: Annotated[Path, typer.Argument(help="A data, activations or probes folder.")],
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Check a stage folder, byte by byte, against its manifest.

    Example: strataprobe verify outputs/demo/activations
    """
    problems = verify_folder(folder)
    n_files = len(read_manifest(folder).files)
    if json:
        print_json({"folder": str(folder), "n_files": n_files, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{folder}: {n_files} files, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(USER_CAN_MEND)
