"""strataprobe check"""

from __future__ import annotations

from typing import Annotated

import typer

from strataprobe.cli import USER_CAN_MEND
from strataprobe.cli import options as o
from strataprobe.cli.output import print_json, print_table


def check(
    model: Annotated[str, typer.Argument(help="Model id, local folder, or 'demo'.")],
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Read a model's layers two independent ways and compare them.

    Example: strataprobe check demo
    """
    from dataclasses import asdict

    from strataprobe.capture.check import check_model
    from strataprobe.models import load_model, say_choices

    loaded = load_model(model, dtype=dtype, device=device)
    say_choices(loaded, dtype, device)
    result = check_model(loaded)
    if json:
        print_json({**asdict(result), "trusted": result.trusted, "verdict": result.verdict})
    else:
        rows = [
            [str(c.layer), f"{c.against_library:.1e}", f"{c.padding:.1e}", f"{c.batching:.1e}"] for c in result.layers
        ]
        columns = ["layer", "against hidden_states", "padded, alone", "other batches"]
        print_table("largest difference, relative to the norm", columns, rows)
        print(result.verdict)
    if not result.trusted:
        raise typer.Exit(USER_CAN_MEND)
