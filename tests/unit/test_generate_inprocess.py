"""The backend ``transformers``: rounds and batches, going on after a kill, where texts stop, what it leaves untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from builders import save_model, tiny_model
from grammar_decoder import END, ON_AND_ON, START, grammar_decoder, save_grammar, texts_chain
from inprocess_jobs import SENTIMENT, asks, job, loop
from strataprobe.errors import BackendError, ModelError, OptionError
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.backends import BackendOptions, open_backend
from strataprobe.generate.backends.decoding import left_padded
from strataprobe.generate.backends.inprocess import InProcess
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import LEDGER_NAME, Ledger
from strataprobe.models import LoadedModel, load_model, wrap_model
from strataprobe.progress import Progress


@pytest.fixture(scope="module")
def writer() -> LoadedModel:
    return wrap_model(*grammar_decoder(texts_chain()))


# Rounds, batches, interruptions


def test_every_cell_gets_a_text_though_some_answers_are_rejected(writer: LoadedModel, tmp_path: Path) -> None:
    entries, backend = job(writer, tmp_path)
    accepted = [e for e in entries if e.accepted]
    assert len(accepted) == 16
    assert len({e.cell for e in accepted}) == 16
    assert len({e.text for e in accepted}) == 16
    assert {e.check for e in entries} >= {"", "preamble", "truncated", "first_person"}
    assert all(END not in e.text and "<" not in e.text for e in entries)
    details = backend.details()
    assert details["batches"] >= 4
    assert details["new_tokens_accepted"] > 0 < details["new_tokens_rejected"]
    json.dumps(details)


def test_a_round_asks_the_cells_whose_earlier_answers_were_all_rejected(writer: LoadedModel, tmp_path: Path) -> None:
    entries, _ = job(writer, tmp_path)
    assert [e.attempt for e in entries] == sorted(e.attempt for e in entries)
    for attempt in range(2, 4):
        rejected_before = {e.cell for e in entries if e.attempt == attempt - 1 and not e.accepted}
        assert {e.cell for e in entries if e.attempt == attempt} == rejected_before


def test_no_cell_is_asked_more_often_than_allowed(tmp_path: Path) -> None:
    entries, _ = job(loop(ON_AND_ON), tmp_path, n=2, attempts=3, max_new_tokens=4)
    assert [(e.attempt, e.check) for e in entries] == [(a, "truncated") for a in (1, 2, 3) for _ in range(4)]
    more, _ = job(loop(ON_AND_ON), tmp_path, n=2, attempts=3, max_new_tokens=4)
    assert more == entries
    with Ledger(tmp_path / LEDGER_NAME) as ledger:
        ledger.give_up()
    more, _ = job(loop(ON_AND_ON), tmp_path, n=2, attempts=1, max_new_tokens=4)
    assert [e.attempt for e in more[12:]] == [4] * 4


@pytest.mark.parametrize("batch_size", [5, 16])
def test_an_interrupted_job_ends_with_the_ledger_of_an_uninterrupted_one(
    writer: LoadedModel, tmp_path: Path, batch_size: int
) -> None:
    n_batches = job(writer, tmp_path, batch_size=batch_size)[1].details()["batches"]
    whole = (tmp_path / LEDGER_NAME).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) > 18
    for kept, torn in [(0, False), (0, True), (3, True), (5, False), (9, False), (16, True), (18, False)]:
        folder = tmp_path / f"{kept}-{torn}"
        folder.mkdir()
        (folder / LEDGER_NAME).write_bytes(b"".join(lines[:kept]) + (lines[kept][:25] if torn else b""))
        _, backend = job(writer, folder, batch_size=batch_size)
        whole_batches = (
            kept // batch_size if kept < 16 else -(-16 // batch_size)
        )  # of the first round, with its 16 cells
        assert kept > 16 or backend.details()["batches"] == n_batches - whole_batches, (kept, torn)
        assert (folder / LEDGER_NAME).read_bytes() == whole, (kept, torn)


def test_another_seed_writes_other_texts(writer: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, _ = job(writer, tmp_path / "a", n=3)
    others, _ = job(writer, tmp_path / "b", n=3, seed=1)
    assert [e.text for e in ours] != [e.text for e in others]


def test_a_finished_job_asks_nothing_more(writer: LoadedModel, tmp_path: Path) -> None:
    entries, _ = job(writer, tmp_path, n=2)
    again, backend = job(writer, tmp_path, n=2)
    assert again == entries
    assert backend.details()["batches"] == 0


def test_answers_do_not_depend_on_the_batch_size_or_on_padding(tiny: Any) -> None:
    prompts = asks("the light", "nobody knew " * 9, "the train was late, my soup", "My sister called me.")
    found = []
    for size in (1, 3, 8):
        found.append(InProcess(BackendOptions(batch_size=size), tiny("llama")).answers(prompts))
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 4


def test_answers_come_in_the_order_of_the_prompts_and_none_where_nothing_is_said(writer: LoadedModel) -> None:
    chain = {START: {END: 1.0}, "yes": {"certainly": 1.0}, "certainly": {END: 1.0}, "no": {END: 1.0}}
    silent = InProcess(BackendOptions(), wrap_model(*grammar_decoder(chain)))
    assert silent.answers(asks("a b c", "a")) == [None, None]
    # without a template the last word of the request is where the walk starts
    plain = InProcess(BackendOptions(batch_size=2), wrap_model(*grammar_decoder(chain, template=None)))
    assert plain.answers(asks("it is yes", "no", "yes")) == ["certainly", None, "certainly"]
    assert InProcess(BackendOptions(), writer).answers([]) == []


# What the model is given


@pytest.mark.parametrize("template", [True, False])
def test_a_prompt_starts_with_exactly_one_bos(writer: LoadedModel, tiny: Any, template: bool) -> None:
    for tokenizer in (writer.tokenizer, tiny("llama").tokenizer):
        assert tokenizer("words")["input_ids"].count(tokenizer.bos_token_id) == 1
        model, own = grammar_decoder(texts_chain(), template=tokenizer.chat_template if template else None)
        rows = InProcess(BackendOptions(), wrap_model(model, own))._decoder.encoded(asks("some words", "more"))
        assert all(row[0] == own.bos_token_id and row.count(own.bos_token_id) == 1 for row in rows)


def test_a_model_without_a_chat_template_is_given_the_request_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    model = wrap_model(*tiny_model("gpt2"))
    backend = InProcess(BackendOptions(), model)
    assert "no chat template" in capsys.readouterr().err
    (row,) = backend._decoder.encoded(asks("Write of rain."))
    assert model.tokenizer.decode(row) == "Write of rain.\n\n"
    InProcess(BackendOptions(), wrap_model(*grammar_decoder(texts_chain())))
    assert "no chat template" not in capsys.readouterr().err


def test_rows_of_a_batch_end_together() -> None:
    ids, mask = left_padded([[5], [6, 7, 8]], 0, torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_prompt_beyond_the_positions_of_the_model_is_one_sentence(tiny: Any) -> None:
    backend = InProcess(BackendOptions(), tiny("llama"))
    with pytest.raises(BackendError, match=r"2,048 positions, too few for a prompt of .* and 16 new"):
        backend.answers(asks("rain " * 3000))
    assert len(backend.answers(asks("rain " * 200))) == 1


# What it leaves untouched


def test_the_tokenizer_the_model_and_the_random_numbers_are_as_they_were(tmp_path: Path) -> None:
    model = wrap_model(*grammar_decoder(texts_chain()))
    tokenizer, module = model.tokenizer, model.model.train()
    settings = GenerationConfig(max_length=7, repetition_penalty=9.0, temperature=0.01)
    module.generation_config = settings
    kept = (tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template, tokenizer("a b")["input_ids"])
    weights = [p.clone() for p in module.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    entries, _ = job(model, tmp_path, n=2)
    assert torch.equal(torch.rand(3), expected)
    assert kept == (tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template, tokenizer("a b")["input_ids"])
    assert module.training
    assert module.generation_config is settings
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    assert sum(e.accepted for e in entries) == 4


def test_nothing_of_the_model_s_own_settings_reaches_the_sampling(
    writer: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    expected, _ = job(writer, plain, n=3)
    model = wrap_model(*grammar_decoder(texts_chain()))
    model.model.generation_config = GenerationConfig(
        max_length=5, do_sample=False, top_k=1, repetition_penalty=3.0, num_beams=2, eos_token_id=2
    )
    model.tokenizer.pad_token = None
    capfd.readouterr()
    found, _ = job(model, other, n=3)
    assert [e.text for e in found] == [e.text for e in expected]
    said = capfd.readouterr().err
    assert "generation" not in said
    assert "pad_token" not in said
    assert "Setting" not in said


def test_at_temperature_zero_the_same_prompt_gets_the_same_text(writer: LoadedModel, tmp_path: Path) -> None:
    entries, _ = job(writer, tmp_path, n=2, attempts=1, temperature=0.0)
    assert len({e.text for e in entries}) == 1
    assert [e.check for e in entries] == ["", *["duplicate"] * 3]


# Which models


def test_a_multimodal_model_writes_texts(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "gemma", "gemma3")
    backend = open_backend("transformers", BackendOptions(dtype="float32", device="cpu"), str(folder))
    assert backend.identity.name == "gemma"
    found = backend.answers(asks("rain", "the light was still on"))
    assert len(found) == 2
    assert all(found)
    entries, _ = job(str(folder), tmp_path, n=1, attempts=1, max_new_tokens=6)
    assert len(entries) == 2


def test_the_model_is_the_one_that_is_read_later(tmp_path: Path) -> None:
    folder = save_grammar(tmp_path / "grammar", texts_chain())
    backend = InProcess(BackendOptions(), str(folder))
    assert load_model(str(folder)) is backend._loaded
    chosen = InProcess(BackendOptions(llm=str(folder)), "somewhere/else")
    assert chosen.identity.name == "grammar"


def test_an_encoder_and_a_model_without_a_head_are_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an encoder and cannot write"):
        InProcess(BackendOptions(), tiny("bert"))
    model, tokenizer = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no output head"):
        InProcess(BackendOptions(), str(tmp_path))


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": "big"}, {"max_new_tokens": 0}, {"temperature": -1}]
)
def test_options_that_cannot_be_used_are_refused(writer: LoadedModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be"):
        InProcess(BackendOptions(**wrong), writer)


# What can go wrong while it writes


def failing(monkeypatch: pytest.MonkeyPatch, model: LoadedModel, above: int) -> list[int]:
    """Make every batch of more than ``above`` rows run out of memory; the sizes that were tried."""
    tried: list[int] = []
    generate = type(model.model).generate

    def limited(self: nn.Module, *, input_ids: torch.Tensor, **more: Any) -> Any:
        tried.append(len(input_ids))
        if len(input_ids) > above:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(model.model), "generate", limited)
    return tried


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(
    writer: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = failing(monkeypatch, writer, 3)
    entries, backend = job(writer, tmp_path, n=6, batch_size=8)
    assert tried[:5] == [8, 4, 2, 2, 2]
    assert max(tried[2:]) == 2
    assert sum(e.accepted for e in entries) == 12
    assert backend.details()["batch_size"] == 2
    assert "batch size: 4 texts from here on" in capsys.readouterr().err
    assert len(backend.answers(asks("a", "b", "c"))) == 3


def test_no_memory_for_one_text_is_one_sentence(
    writer: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, writer, 0)
    with pytest.raises(BackendError, match="no memory left on cpu for even one text"):
        job(writer, tmp_path, n=2)


def test_values_that_are_not_finite_are_one_sentence(tmp_path: Path) -> None:
    model = wrap_model(*grammar_decoder(texts_chain()))
    with torch.no_grad():
        model.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(BackendError, match="not finite in float32"):
        job(model, tmp_path, n=1)


def test_short_prompts_come_first_and_equal_ones_in_plan_order(writer: LoadedModel, tmp_path: Path) -> None:
    entries, backend = job(writer, tmp_path, n=6, attempts=1)
    plan = make_cells(SENTIMENT, 6, 0)
    with Ledger(tmp_path / "none.jsonl") as ledger:
        asking = Asking(SENTIMENT, plan, Acceptance(SENTIMENT), ledger, Progress("", 0, ""), 1)
        lengths = [len(row) for row in backend._decoder.encoded([asking.messages(cell) for cell in plan])]
    assert [e.cell for e in entries] == [plan[i].id for i in sorted(range(12), key=lambda i: (lengths[i], i))]
    assert len(set(lengths)) > 1
