"""What a run would take, without running it: texts, tokens, seconds, memory, disk.

Seconds and memory are estimates: matrix products are timed for a moment on the device that would be used, and the model's
weights are counted, not loaded.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from strataprobe.capture.batches import CPU_BATCH_TOKENS
from strataprobe.dataset import read_dataset
from strataprobe.devices import DTYPES, choose_device, choose_dtype
from strataprobe.errors import OptionError
from strataprobe.modelerrors import explained
from strataprobe.models import find_blocks, kind_of, resolve
from strataprobe.pipeline import RunOptions
from strataprobe.progress import note, silence
from strataprobe.store import parse_layers

_SAMPLE_PER_CLASS = 20
_USUAL_WORDS = 90
# Measured on 2 cores, medians: the demo model's forward passes reach .79 of the speed of the matrix product timed below.
_EFFICIENCY = 0.8
# What training and comparing one layer costs, as passes over its activations: 1.5 s for 1,400 x 384 (270,000 passes) and
# 2.6 s for 1,400 x 2,560 (128,000), at 196 GFLOP/s. They run on the CPU, also where the model does not.
_FIT_PASSES = 130_000
# Loading libraries, writing the texts, baselines, figure and report: what the demo run takes beside the two above.
_FIXED_S = 10.0


def estimate(options: RunOptions) -> dict[str, Any]:
    """``n_texts``, ``n_tokens``, ``n_layers``, ``elapsed_s``, ``memory_bytes``, ``disk_bytes``, ``free_bytes``.

    Raises what the stages would raise for a bad recipe, file, model or layer.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    source, name = resolve(options.model)
    device = choose_device(options.device)
    dtype = DTYPES[choose_dtype(options.dtype, device)]
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        with torch.device("meta"):
            skeleton = AutoModel.from_config(config)
    except Exception as error:
        raise explained(name, error) from error
    text_config = config.get_text_config()
    n_layers_all, width = int(text_config.num_hidden_layers), int(text_config.hidden_size)
    layers = parse_layers(options.layers, n_layers_all)
    texts, n_texts = _texts(options)
    encoder = kind_of(config, name) == "encoder"
    recipe_suffix = "" if encoder or options.recipe is None else options.recipe.suffix
    suffix = recipe_suffix if options.suffix is None else options.suffix
    encoded = tokenizer([f"{options.prefix}{text}{suffix}" for text in texts])["input_ids"]
    n_tokens = round(n_texts * sum(len(ids) for ids in encoded) / len(texts))
    _, blocks = find_blocks(skeleton, n_layers_all, name)
    flops = 2.0 * sum(p.numel() for p in blocks.parameters()) * max(layers) / n_layers_all * n_tokens
    n_readouts = len(options.readouts) if options.readouts else (1 if encoder else 2)
    vector_bytes = 4 * n_texts * width
    fit_flops = 2.0 * n_texts * min(n_texts, width) * _FIT_PASSES * len(layers) * n_readouts
    read_s = flops / (_EFFICIENCY * _flops_per_s(device, dtype))
    fit_s = fit_flops / _flops_per_s(torch.device("cpu"), torch.float32)
    element = torch.finfo(dtype).bits // 8
    weights_bytes = element * sum(p.numel() for p in skeleton.parameters())
    existing = next(p for p in (options.out.absolute(), *options.out.absolute().parents) if p.exists())
    asked = {} if options.data is not None or options.backend == "builtin" else {"n_requests": n_texts}
    if asked:
        note(
            f"the seconds leave out the {n_texts:,} requests or more to the model that writes (--backend {options.backend})."
        )
    return {
        "n_texts": n_texts,
        **asked,
        "n_tokens": n_tokens,
        "n_layers": len(layers),
        "device": str(device),
        "elapsed_s": round(_FIXED_S + read_s + fit_s, 1),
        "memory_bytes": int(weights_bytes + 40 * CPU_BATCH_TOKENS * width * element + 12 * vector_bytes + 600 * 2**20),
        "disk_bytes": int(2 * vector_bytes * (len(layers) * n_readouts + 1)),
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _texts(options: RunOptions) -> tuple[list[str], int]:
    """Texts to count tokens in, and how many there would be: all of the user's own, or a sample of generated ones."""
    if options.data is not None:
        texts = [row.whole_text for row in read_dataset(options.data, options.recipe, options.seed).rows]
        return texts, len(texts)
    from strataprobe.generate.builtin.backend import material_names
    from strataprobe.generate.run import generate

    if options.recipe is None:
        raise OptionError("give a recipe or --data.")
    n_per_class = options.n_per_class or options.recipe.n_per_class
    if (
        options.backend != "builtin" or options.recipe.name not in material_names()
    ):  # nobody has written any of these yet: texts of middling length
        low, high = options.recipe.writing.words
        return ["word " * ((low + min(high, _USUAL_WORDS)) // 2)], n_per_class * len(options.recipe.classes)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample"
        with silence():
            generate(options.recipe, sample, backend="builtin", n_per_class=_SAMPLE_PER_CLASS, seed=options.seed)
        texts = [row.text for row in read_dataset(sample).rows]
    return texts, n_per_class * len(options.recipe.classes)


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of a matrix product of moderate size, timed for about a tenth of a second."""
    a = torch.randn(1024, 1024, dtype=dtype, device=device)
    (a @ a).sum().item()
    started_s, n = time.perf_counter(), 0
    while time.perf_counter() - started_s < 0.1:
        (a @ a).sum().item()
        n += 1
    return 2.0 * 1024**3 * n / (time.perf_counter() - started_s)
