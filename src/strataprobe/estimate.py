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
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.content import Content
from strataprobe.dataset import read_dataset
from strataprobe.devices import DTYPES, choose_device, choose_dtype
from strataprobe.errors import OptionError
from strataprobe.modelerrors import explained
from strataprobe.models import LoadedModel, resolve, wrap_model
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
# Batches whose vectors wait in memory: one being read, two waiting, one being written.
_BATCHES_HELD = 4
# Vectors of every token are written, read, written again and summed up: 230 to 290 MB of them a second, on 2 cores.
_KEPT_BYTES_PER_S = 250e6


def estimate(options: RunOptions) -> dict[str, Any]:
    """``n_texts``, ``n_tokens``, ``n_layers``, ``elapsed_s``, ``memory_bytes``, ``disk_bytes``, ``free_bytes``.

    Tokens, seconds and bytes are those of the ``--eval`` texts too, ``n_eval_texts`` of them where there are any. Raises
    what the stages would raise for a bad recipe, file, model or layer.
    """
    device = choose_device(options.device)
    dtype = DTYPES[choose_dtype(options.dtype, device)]
    model = _skeleton(options.model)
    width = model.d_model
    layers = parse_layers(options.layers, model.n_layers)
    recipe_suffix = "" if model.kind == "encoder" or options.recipe is None else options.recipe.suffix
    suffix = recipe_suffix if options.suffix is None else options.suffix
    tokenizer = Tokenizer(model, PromptForm(options.prefix, suffix, options.template), options.max_tokens)
    texts, n_texts = _texts(options)
    n_tokens = round(n_texts * tokenizer.rows(texts).n_tokens / len(texts))
    n_eval_texts = 0
    for path in options.evals.values():
        rows = read_dataset(path, options.recipe, options.seed, keep_fields=False).rows
        n_eval_texts += len(rows)
        n_tokens += tokenizer.rows([row.content for row in rows]).n_tokens
    flops = 2.0 * sum(p.numel() for p in model.blocks.parameters()) * max(layers) / model.n_layers * n_tokens
    n_readouts = len(options.readouts or model.default_readouts)
    vector_bytes = 4 * (n_texts + n_eval_texts) * width
    n_kept_layers = len({0, *layers}) if options.keep_tokens else 0
    kept_bytes = 4 * n_tokens * width * n_kept_layers
    fit_flops = 2.0 * n_texts * min(n_texts, width) * _FIT_PASSES * len(layers) * n_readouts
    read_s = flops / (_EFFICIENCY * _flops_per_s(device, dtype))
    fit_s = fit_flops / _flops_per_s(torch.device("cpu"), torch.float32)
    element = torch.finfo(dtype).bits // 8
    weights_bytes = element * sum(p.numel() for p in model.model.parameters())
    batches_bytes = (40 * element + 4 * _BATCHES_HELD * n_kept_layers) * CPU_BATCH_TOKENS * width
    existing = next(p for p in (options.out.absolute(), *options.out.absolute().parents) if p.exists())
    asked = {} if options.data is not None or options.backend == "builtin" else {"n_requests": n_texts}
    if asked:
        note(
            f"the seconds leave out the {n_texts:,} requests or more to the model that writes (--backend {options.backend})."
        )
    return {
        "n_texts": n_texts,
        **({"n_eval_texts": n_eval_texts} if n_eval_texts else {}),
        **asked,
        "n_tokens": n_tokens,
        "n_layers": len(layers),
        "device": str(device),
        "elapsed_s": round(_FIXED_S + read_s + kept_bytes / _KEPT_BYTES_PER_S + fit_s, 1),
        "memory_bytes": int(weights_bytes + batches_bytes + 12 * vector_bytes + 600 * 2**20),
        "disk_bytes": int(2 * (vector_bytes * (len(layers) * n_readouts + 1) + kept_bytes)),
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _skeleton(name_or_folder: Any) -> LoadedModel:
    """The model with its tokenizer and without its weights, which take no memory."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    source, name = resolve(name_or_folder)
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        with torch.device("meta"):
            skeleton = AutoModel.from_config(config)
    except Exception as error:
        raise explained(name, error) from error
    skeleton.config._commit_hash = getattr(config, "_commit_hash", None) or "unknown"  # there are no weights to tell by
    return wrap_model(skeleton, tokenizer)


def _texts(options: RunOptions) -> tuple[list[Content], int]:
    """Texts to count tokens in, and how many there would be: all of the user's own, or a sample of generated ones."""
    if options.data is not None:
        rows = read_dataset(options.data, options.recipe, options.seed, keep_fields=False).rows
        return [row.content for row in rows], len(rows)
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
        rows = read_dataset(sample).rows
    return [row.content for row in rows], n_per_class * len(options.recipe.classes)


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of a matrix product of moderate size, timed for about a tenth of a second."""
    a = torch.randn(1024, 1024, dtype=dtype, device=device)
    (a @ a).sum().item()
    started_s, n = time.perf_counter(), 0
    while time.perf_counter() - started_s < 0.1:
        (a @ a).sum().item()
        n += 1
    return 2.0 * 1024**3 * n / (time.perf_counter() - started_s)
