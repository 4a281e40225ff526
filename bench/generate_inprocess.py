"""What the backend ``transformers`` adds to the library's own ``generate``: the same batches, seeds and tokens, interleaved.

    python -m bench.generate_inprocess
    python -m bench.generate_inprocess --model gemma3-4b --device cuda --cells 256 --batch-size auto

The baseline gets its batches as tensors, tokenised and padded beforehand, and does nothing with the ids it returns. Weights
are random. Every text runs to the last token and is then checked as though it had ended, under a recipe that lets most
through, so that all checks are paid for. Writes bench/results/generate_inprocess.json and generate_inprocess.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from bench.capture.standin import SHAPES
from strataprobe.devices import choose_device
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.inprocess import InProcess
from strataprobe.generate.cells import Cell, make_cells
from strataprobe.generate.ledger import LEDGER_NAME, Ledger
from strataprobe.manifest import library_versions
from strataprobe.models import wrap_model
from strataprobe.progress import Progress, set_quiet
from strataprobe.recipe import Recipe, Writing, load_recipe

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
BAR = 1.3
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<turn>", "</turn>"]
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
GEMMA3_4B = {**SHAPES["gemma3-4b"], "max_position_embeddings": 131072}


class Checked(Asking):
    """Checks every answer, also one that was cut off."""

    def settle(
        self, cell: Cell, answer: str, problem: tuple[str, str] | None = None, parts: Sequence[str] = ()
    ) -> bool:
        """Settle an answer as though it had ended with a full stop."""
        return super().settle(cell, f"{answer.rstrip()}.", None, parts)


class Recorder:
    """Stands in for a model's ``generate`` and keeps what it was called with, the random state then, and its result."""

    def __init__(self, model: Any) -> None:
        self._generate, self.calls, self.made, self.inside_s = model.generate, [], [], 0.0
        model.generate = self

    def __call__(self, **how: Any) -> torch.Tensor:
        device = how["input_ids"].device
        states = (torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)
        self.calls.append((how, states))
        started_s = time.perf_counter()
        self.made.append(self._generate(**how).cpu())
        self.inside_s += time.perf_counter() - started_s
        return self.made[-1]

    def bare(self, calls: Sequence[tuple[dict[str, Any], Any]]) -> list[torch.Tensor]:
        """The same calls again, by the library alone."""
        made = []
        for how, (cpu_state, gpu_state) in calls:
            torch.set_rng_state(cpu_state)
            if gpu_state is not None:
                torch.cuda.set_rng_state(gpu_state, how["input_ids"].device)
            made.append(self._generate(**{name: value for name, value in how.items() if name != "stopping_criteria"}))
        return [ids.cpu() for ids in made]


def tokenizer_of(n_ids: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on the words of this package's own texts, made-up words for the rest of ``n_ids``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=min(n_ids, 4096),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    files = sorted(Path(str(resources.files("strataprobe"))).rglob("*.toml"))
    words = (" ".join(word for word in file.read_text("utf-8").split() if word.isalpha()) for file in files)
    tokenizer.train_from_iterator(words, trainer)
    made_up = [f"\u0120w{i}" for i in range(n_ids - tokenizer.get_vocab_size())]
    state = json.loads(tokenizer.to_str())
    start = tokenizer.get_vocab_size()
    state["model"]["vocab"] |= {word: start + i for i, word in enumerate(made_up)}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    return fast


def random_model(name: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerFast]:
    """A decoder with random weights, in bfloat16 on a GPU, and its tokenizer."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        if name == "small":
            model = LlamaForCausalLM._from_config(LlamaConfig(**SMALL, **ids), dtype=dtype)
        else:
            model = Gemma3ForCausalLM._from_config(Gemma3TextConfig(**GEMMA3_4B, **ids), dtype=dtype)
    return model.eval(), tokenizer_of(int(model.config.vocab_size))


def lenient() -> Recipe:
    """The recipe of sentiment, with bounds that random words can keep to."""
    writing = Writing(sentences=(1, 60), words=(1, 1000), first_person=False)
    return load_recipe("sentiment").model_copy(update={"writing": writing})


def timed(job: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one run: by the clock, and of the processor's time, which other work on the machine changes less."""
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - started_s, time.process_time() - started_cpu_s


def bench(name: str, device: torch.device, n_cells: int, batch_size: int | str, n_new: int) -> dict[str, Any]:
    """Seconds of both, what was written, and the ratio. Asserts that the token ids are the same."""
    recipe = lenient()
    loaded = wrap_model(*random_model(name, device))
    recorder = Recorder(loaded.model)
    backend = InProcess(BackendOptions(max_new_tokens=n_new, batch_size=batch_size), loaded)
    started_s = time.perf_counter()
    backend._decoder.stops_at(recipe.writing.sentences[1])
    tables_s = time.perf_counter() - started_s
    plan = make_cells(recipe, n_cells // len(recipe.class_names), 0)
    checks: Counter[str] = Counter()

    def ours() -> None:
        recorder.calls, recorder.made, recorder.inside_s = [], [], 0.0
        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / LEDGER_NAME) as ledger:
            backend.write(Checked(recipe, plan, Acceptance(recipe), ledger, Progress("", len(plan), "texts"), 1), 0)
        checks.clear()
        checks.update(entry.check or "accepted" for entry in ledger.entries)

    def bare() -> None:
        theirs[:] = recorder.bare(recorder.calls)

    theirs: list[torch.Tensor] = []
    ours()  # to know the batches, and to warm up
    rounds: list[tuple[float, ...]] = []
    for turn in range(ROUNDS):
        jobs = (ours, bare) if turn % 2 else (bare, ours)
        took_s = {job.__name__: timed(job) for job in jobs}
        rounds.append((*took_s["ours"], *took_s["bare"], took_s["ours"][0] - recorder.inside_s))
        assert len(theirs) == len(recorder.made) > 0
        assert all(torch.equal(a, b) for a, b in zip(recorder.made, theirs, strict=True))
    ours_s, ours_cpu_s, bare_s, bare_cpu_s, outside_s = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    lengths = [int(how["attention_mask"].sum(dim=1).max()) for how, _ in recorder.calls]
    return {
        "model": name,
        "device": device.type,
        "dtype": loaded.dtype,
        "texts": len(plan),
        "batches": [len(how["input_ids"]) for how, _ in recorder.calls],
        "longest prompt of each batch": lengths,
        "new tokens a text": n_new,
        "seconds": {
            "InProcess.write": round(ours_s, 4),
            "of these outside model.generate": round(outside_s, 4),
            "bare model.generate": round(bare_s, 4),
        },
        "ratio": round(ours_s / bare_s, 4),
        "ratio of each round": [round(ours / bare, 4) for ours, _, bare, *_ in rounds],
        "processor_seconds": {"InProcess.write": round(ours_cpu_s, 4), "bare model.generate": round(bare_cpu_s, 4)},
        "processor_ratio": round(ours_cpu_s / bare_cpu_s, 4),
        "texts_per_min": round(60 * len(plan) / ours_s, 1),
        "new_tokens_per_s": round(len(plan) * n_new / ours_s, 1),
        "checks": dict(sorted(checks.items())),
        "tables_once_s": round(tables_s, 3),
    }


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine, found = document["machine"], document["results"]
    lines = [
        "# Writing texts in process",
        "",
        f"Written by `{document['command']}`: {machine['device']}, {machine['cores']} cores, {machine['machine']}, "
        f"{machine['threads']} threads, torch {document['versions']['torch']}.",
        "",
        f"{found['texts']} texts of {found['new tokens a text']} tokens in batches of {max(found['batches'])}, "
        f"{found['model']} with random weights, {found['dtype']}; medians of {ROUNDS} interleaved rounds. "
        "The token ids were the same.",
        "",
        "| how | seconds |",
        "| --- | ---: |",
        *(f"| {how} | {s:.3f} |" for how, s in found["seconds"].items()),
        "",
        f"Ratio {found['ratio']:.3f} (at most {BAR} is wanted), round by round "
        f"{', '.join(f'{ratio:.2f}' for ratio in found['ratio of each round'])}; of processor time "
        f"{found['processor_ratio']:.3f}. A ratio below 1 is other work on the machine, not a gain.",
        f"{found['texts_per_min']:,.0f} texts a minute, {found['new_tokens_per_s']:,.0f} new tokens a second.",
        f"The tables of where texts stop are made once for a model, in {found['tables_once_s']} s, not counted here.",
        f"What the checks said: {', '.join(f'{n} {check}' for check, n in found['checks'].items())}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and write the results; a ratio above the bar is an error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["small", "gemma3-4b"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--batch-size", default="16")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--name", default="generate_inprocess", help="name of the two files in bench/results")
    chosen = parser.parse_args()
    set_quiet(True)
    device = choose_device(chosen.device)
    size = chosen.batch_size if chosen.batch_size == "auto" else int(chosen.batch_size)
    results = bench(chosen.model, device, chosen.cells, size, chosen.max_new_tokens)
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    command = " ".join(["python -m bench.generate_inprocess", *sys.argv[1:]])
    document = {"command": command, "machine": machine, "versions": library_versions(), "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / f"{chosen.name}.md").write_text(page(document))
    print(page(document))
    assert results["ratio"] <= BAR, f"the ratio {results['ratio']} is above {BAR}"


if __name__ == "__main__":
    main()
