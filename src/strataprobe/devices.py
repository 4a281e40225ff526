"""Which device a model runs on, and in which dtype."""

from __future__ import annotations

import torch

from strataprobe.errors import OptionError

# dtype of the weights by the name that --dtype takes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.float16}


def choose_device(device: str = "auto") -> torch.device:
    """The device to run on. Raises OptionError when the one asked for is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"--device {device!r} is not a device: use auto, cpu, cuda, cuda:1 or mps.") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"--device {device!r} cannot be used: use auto, cpu, cuda, cuda:1 or mps.")
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise OptionError(f"--device {device} is not available on this machine: use --device auto.")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> str:
    """The dtype to run in, a key of ``DTYPES``: float32, on CUDA bfloat16 where it is native, else mixed.

    Raises OptionError for a dtype that is none of them.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "mixed"
    if dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype!r} cannot be used: use auto, float32, bfloat16 or mixed.")
    return dtype
