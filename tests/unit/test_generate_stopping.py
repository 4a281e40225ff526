"""Where a text that a model writes stops: by rules on characters, followed from token ids alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grammar_decoder import END, NOBODY, ON_AND_ON, START, Chain, grammar_decoder, texts_chain
from inprocess_jobs import job, loop
from strataprobe.generate.backends.stopping import BLANK_LINE, ENDED, SENTENCES, Stops, Watch, first_part, token_texts
from strataprobe.generate.words import count_sentences
from strataprobe.models import wrap_model


def test_a_row_stops_once_it_has_begun_two_sentences_too_many(tmp_path: Path) -> None:
    model = loop("I ate a plum.")
    passes: list[int] = []
    hook = model.model.register_forward_hook(lambda *_: passes.append(1))
    entries, backend = job(model, tmp_path, n=1, attempts=1, max_new_tokens=200)
    hook.remove()
    assert [(e.check, e.found) for e in entries] == [("sentences", "6 sentences")] * 2
    assert backend.details()["new_tokens_rejected"] == 2 * 6
    assert len(passes) <= 7


def test_a_text_of_as_many_sentences_as_may_be_is_not_cut(tmp_path: Path) -> None:
    words = ["I rowed to the mill.", "My oar broke at 3.5 knots!", "Nobody came by...", "Then I swam home?"]
    chain: Chain = {here: {there: 1.0} for here, there in zip([START, *words], [*words, END], strict=True)}
    entries, _ = job(wrap_model(*grammar_decoder(chain)), tmp_path, n=1, attempts=1)
    assert (entries[0].text, entries[0].check) == (" ".join(words), "")


def test_a_text_ends_at_a_blank_line_but_not_at_one_before_it(tmp_path: Path) -> None:
    chain: Chain = {
        START: {"\n\n": 1.0},
        "\n\n": {"I rowed": 1.0},
        "I rowed": {"home and slept.\n": 1.0},
        "home and slept.\n": {"My oars dried slowly by the stove.\n\nNote the rest": 1.0},
        "My oars dried slowly by the stove.\n\nNote the rest": {"of it": 1.0},
    }
    entries, backend = job(wrap_model(*grammar_decoder(chain)), tmp_path, n=1, attempts=1)
    assert " ".join(entries[0].text.split()) == "I rowed home and slept. My oars dried slowly by the stove."
    assert entries[0].check == ""
    assert backend.details()["new_tokens_accepted"] == 4


def test_a_text_that_does_not_end_is_truncated_and_one_that_ends_in_time_is_not(tmp_path: Path) -> None:
    entries, backend = job(loop(ON_AND_ON), tmp_path, n=1, attempts=1, max_new_tokens=7)
    assert [(e.check, e.found) for e in entries] == [("truncated", "no end after 7 tokens")] * 2
    assert entries[0].text == " ".join([ON_AND_ON] * 7)
    assert backend.details()["new_tokens_rejected"] == 14
    (tmp_path / "ends").mkdir()
    ended, _ = job(loop(NOBODY, **{END: 1.0}), tmp_path / "ends", n=1, attempts=1, max_new_tokens=2)
    assert [(e.text, e.check) for e in ended] == [(NOBODY, "sentences")] * 2


def stop_of(text: str) -> tuple[str | None, str]:
    """Why a text written character by character stops with four sentences at most, and what was written by then."""
    texts = sorted(set(text))
    stops = Stops(texts, len(texts), [], 4, torch.device("cpu"))
    watch = Watch(stops, 1)
    for place, character in enumerate(text):
        if watch(torch.tensor([[texts.index(character)]]))[0]:
            return stops.reason(int(watch.states[0])), text[: place + 1]
    return None, text


@pytest.mark.parametrize("head", ["Dear Mum,", "Hi Mum!", "3 March", "The walk", "(late)", "Well..."])
def test_a_blank_line_before_the_first_sentence_is_over_ends_no_text(head: str) -> None:
    text = f"{head}\n\nI baked the bread. It rose."
    assert stop_of(text) == (None, text)
    assert first_part(text) == text
    assert stop_of(f"{text}\n\nNote the rest") == (BLANK_LINE, f"{text}\n\n")
    assert first_part(f"{text}\n \nNote the rest") == text


@pytest.mark.parametrize("text", ["I baked.", "Why not? I baked", "I baked! It rose!", "\n\nI baked (twice.)"])
def test_a_blank_line_after_a_sentence_ends_a_text(text: str) -> None:
    assert stop_of(f"{text}\n\nMore of it.")[0] == BLANK_LINE
    assert first_part(f"{text}\n\nMore of it.") == text.strip()


def test_pauses_are_no_sentences() -> None:
    text = "I sat... and sat... and sat... and sat... and sat. I left."
    assert stop_of(text) == (None, text)
    assert stop_of(text.replace("...", "."))[0] == SENTENCES


PIECES = [
    "x",
    " x",
    ".",
    " .",
    "!?",
    ")",
    '"',
    ' "',
    " ",
    "\n",
    ". x",
    ".)",
    "3.5",
    ". ",
    "...",
    "x.\n",
    "\n\n",
    "a. b. c",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25), st.integers(1, 4))
def test_the_stop_for_sentences_comes_exactly_when_the_text_has_too_many(pieces: list[str], most: int) -> None:
    texts = [*PIECES, ""]
    stops = Stops(texts, len(texts) + 3, [len(PIECES)], most, torch.device("cpu"))
    watch, text = Watch(stops, 1), ""
    for piece in pieces:
        before, text = text, text + piece
        done = watch(torch.tensor([[0, texts.index(piece)]]))
        why = stops.reason(int(watch.states[0]))
        assert bool(done[0]) == (why is not None)
        if why == SENTENCES:
            assert most < count_sentences(text)
            assert ".." in text or count_sentences(before) <= most
            break
        if why == BLANK_LINE:
            head = first_part(text)
            assert text.strip() == head or text.lstrip()[len(head) :].lstrip(" ").startswith("\n")
            assert any(c.isalnum() for c in head)
            assert count_sentences(head) >= 1
            break
        assert count_sentences(text) <= most or "a. b. c" in piece or ".." in text


def test_rows_are_followed_apart_and_a_row_that_is_over_counts_no_more() -> None:
    texts = ["a", " b.", "", "\n", "c."]
    stops = Stops(texts, 6, [2], 1, torch.device("cpu"))
    watch = Watch(stops, 4)
    for column in ([0, 1, 4, 5], [2, 0, 3, 5], [1, 0, 3, 5], [1, 1, 0, 0]):
        watch(torch.tensor(column)[:, None])
    assert watch.lengths.tolist() == [2, 4, 3, 4]
    assert [stops.reason(s) for s in watch.states.tolist()] == [ENDED, None, BLANK_LINE, None]


def test_tokens_keep_the_space_before_them(tiny: Any) -> None:
    words = token_texts(grammar_decoder(texts_chain())[1])
    assert f" {NOBODY}" in words
    assert "" in words
    bytewise = tiny("llama").tokenizer
    texts = token_texts(bytewise)
    ids = bytewise("the light was still on.\n", add_special_tokens=False)["input_ids"]
    assert "".join(texts[i] for i in ids) == "the light was still on.\n"
