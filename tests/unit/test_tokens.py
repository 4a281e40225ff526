"""From texts to token ids: one BOS, the text unchanged, its own tokens, cutting, chat templates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import strataprobe as sp
from builders import tiny_model, tiny_tokenizer
from plain_hook import SUFFIX
from strataprobe.capture import tokens
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenTable
from strataprobe.errors import DataError, ModelError, OptionError
from strataprobe.models import LoadedModel, wrap_model

ODD_TEXTS = {
    "spaces at both ends": "  I stayed.  ",
    "a newline at the end": "I stayed.\n",
    "newlines only around": "\n\nI stayed.\r\n\t",
    "emoji": "👩‍👩‍👧 and 🎉🎉",
    "right to left": "שלום, עולם! مرحبا بالعالم",
    "combining marks": "e\u0301a\u0308 naïve",
    "zero width": "\u200bI stayed\u200b",
    "one character": "x",
}


def with_tokenizer(family: str, kind: str) -> LoadedModel:
    return wrap_model(tiny_model(family, n_layers=1)[0], tiny_tokenizer(kind))


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3", "gemma2", "llama", "mistral"])
@pytest.mark.parametrize("suffix", ["", SUFFIX])
def test_there_is_exactly_one_bos_at_the_front(family: str, suffix: str, tiny: Any) -> None:
    rows = Tokenizer(tiny(family), PromptForm(suffix=suffix)).rows(list(ODD_TEXTS.values()))
    for row in rows:
        assert row.ids[0] == 1
        assert (row.ids == 1).sum() == 1
        assert row.own_start == 1


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox"])
def test_no_bos_is_added_to_a_tokenizer_that_has_none(family: str, tiny: Any) -> None:
    model = tiny(family)
    row = Tokenizer(model, PromptForm()).rows(["It rained."])[0]
    assert row.own_start == 0
    assert row.ids.tolist() == model.tokenizer("It rained.")["input_ids"]
    assert 1 not in row.ids


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3", "gemma2"])
def test_a_gemma_whose_tokenizer_adds_no_bos_is_refused(family: str) -> None:
    with pytest.raises(ModelError, match=r"adds no BOS token, without which Gemma"):
        Tokenizer(with_tokenizer(family, "none"), PromptForm()).rows(["It rained."])


def test_another_model_whose_tokenizer_adds_no_bos_is_read() -> None:
    assert len(Tokenizer(with_tokenizer("llama", "none"), PromptForm()).rows(["It rained."])) == 1


@pytest.mark.parametrize("family", ["gemma3_text", "llama"])
@pytest.mark.parametrize("form", [PromptForm(), PromptForm(suffix=SUFFIX)])
def test_a_text_that_brings_its_own_bos_is_refused_by_name(family: str, form: PromptForm, tiny: Any) -> None:
    with pytest.raises(DataError, match=r"text 1 begins with the model's BOS"):
        Tokenizer(tiny(family), form).rows(["fine", "<bos>It rained."])
    assert len(Tokenizer(tiny(family), form).rows(["fine", "It <bos> rained."])) == 2


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "bert"])
def test_the_text_is_tokenised_as_it_is_and_its_tokens_cover_it(family: str, text: str, tiny: Any) -> None:
    model = tiny(family)
    prefix, suffix = "Text:\n", SUFFIX
    row = Tokenizer(model, PromptForm(prefix, suffix)).rows([text])[0]
    encoded = model.tokenizer(prefix + text + suffix, return_offsets_mapping=True)
    assert row.ids.tolist() == encoded["input_ids"]
    offsets = encoded["offset_mapping"]
    begin, end = len(prefix), len(prefix) + len(text)
    assert all(begin <= offsets[i][0] < end for i in range(row.own_start, row.own_end))
    assert offsets[row.own_end - 1][1] >= end  # the last own token reaches the text's end, or over it
    assert offsets[row.own_start][0] - begin <= 1  # a token that begins in the prefix may take the first character


@pytest.mark.parametrize("ending", ["\n", " ", "\n\n"])
def test_a_text_that_ends_in_white_space_is_not_tokenised_apart_from_its_suffix(ending: str, tiny: Any) -> None:
    model, text = tiny("llama"), f"It rained.{ending}"
    row = Tokenizer(model, PromptForm(suffix=" the end of it")).rows([text])[0]
    assert row.ids.tolist() == model.tokenizer(f"{text} the end of it")["input_ids"]


def test_bert_reads_no_special_token_as_its_own_or_as_its_last(tiny: Any) -> None:
    model = tiny("bert")
    row = Tokenizer(model, PromptForm()).rows(["It rained."])[0]
    cls, sep = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    assert (row.ids[0], row.ids[-1]) == (cls, sep)
    assert (row.own_start, row.own_end) == (1, len(row.ids) - 1)
    assert row.last == len(row.ids) - 2


def test_special_tokens_are_no_part_of_the_mean(tiny: Any) -> None:
    model = tiny("gemma3_text")
    row = Tokenizer(model, PromptForm()).rows(["It rained."])[0]
    mean = sp.capture(["It rained."], model.model, model.tokenizer, readout="mean", layers=2).layer(2)[0]
    hidden = []
    handle = model.blocks[1].register_forward_hook(lambda _m, _a, out: hidden.append(out))
    model.model(input_ids=torch.tensor([row.ids.tolist()]))
    handle.remove()
    stream = (hidden[0][0] if isinstance(hidden[0], tuple) else hidden[0])[0].detach().numpy()
    np.testing.assert_allclose(mean, stream[1:].mean(axis=0), rtol=1e-4, atol=1e-5)
    assert not np.allclose(mean, stream.mean(axis=0), rtol=1e-3, atol=1e-3)


def test_a_text_without_a_token_of_its_own_is_refused_by_name(tiny: Any) -> None:
    form = PromptForm(prefix="say ")
    # the space and the word are one token, which starts in the prefix
    assert tiny("llama").tokenizer("say the", return_offsets_mapping=True)["offset_mapping"][-1] == (3, 7)
    with pytest.raises(DataError, match=r"row 7 holds no token of its own"):
        Tokenizer(tiny("llama"), form).rows(["the"], lambda _: "row 7")
    assert Tokenizer(tiny("llama"), form).rows(["the rain"], lambda _: "row 7")[0].own_start > 0


def test_ten_thousand_words_are_cut_at_their_end_and_the_suffix_stays_whole(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("gemma3")
    long = " ".join(f"word{i}" for i in range(10_000))
    tokenizer = Tokenizer(model, PromptForm("Text:\n", SUFFIX), max_tokens=120)
    short, cut = tokenizer.rows(["It rained.", long])
    assert not short.truncated
    assert cut.truncated
    assert 110 < len(cut.ids) <= 120
    decoded = model.tokenizer.decode(cut.ids.tolist())
    assert decoded.startswith("<bos>Text:\nword0 word1 word2")
    assert decoded.endswith(SUFFIX)
    kept = decoded.removeprefix("<bos>Text:\n").removesuffix(SUFFIX)
    assert long.startswith(kept)
    assert cut.ids.tolist() == model.tokenizer(f"Text:\n{kept}{SUFFIX}")["input_ids"]
    sp.capture([long, "It rained."], model.model, model.tokenizer, layers=1, max_tokens=120, suffix=SUFFIX)
    assert "1 of 2 texts were too long and were cut" in capsys.readouterr().err
    sp.capture(["It rained."], model.model, model.tokenizer, layers=1, max_tokens=120, suffix=SUFFIX)
    assert "cut" not in capsys.readouterr().err


@pytest.mark.parametrize("max_tokens", range(20, 40))
def test_a_text_of_emoji_is_never_cut_inside_a_character(max_tokens: int, tiny: Any) -> None:
    model, text = tiny("llama"), "🎉🙂👩‍👩‍👧" * 20
    row = Tokenizer(model, PromptForm(suffix="\nend"), max_tokens).rows([text])[0]
    kept = model.tokenizer.decode(row.ids.tolist()).removeprefix("<bos>").removesuffix("\nend")
    assert text.startswith(kept)
    assert len(row.ids) <= max_tokens


@pytest.mark.parametrize("text", ["It rained and rained.", "🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉"])
def test_a_limit_that_leaves_no_room_for_the_text_is_refused(text: str, tiny: Any) -> None:
    around = len(tiny("llama").tokenizer(SUFFIX)["input_ids"])
    for room in (0, 1):
        if room and text[0] == "I":
            continue
        with pytest.raises(OptionError, match=r"leave no room for the text"):
            Tokenizer(tiny("llama"), PromptForm(suffix=SUFFIX), around + room).rows([text])


def test_limits_outside_the_models_positions_are_refused(tiny: Any) -> None:
    with pytest.raises(OptionError, match=r"--max-tokens 5000 is more than the 2048 positions"):
        Tokenizer(tiny("llama"), PromptForm(), 5000)
    with pytest.raises(OptionError, match=r"at least 1"):
        Tokenizer(tiny("llama"), PromptForm(), 0)
    assert Tokenizer(tiny("llama"), PromptForm()).max_tokens == 2048
    assert Tokenizer(tiny("bert"), PromptForm()).max_tokens == 512


def test_a_chat_turn_holds_the_text_once_with_one_bos_and_ends_where_the_model_answers(tiny: Any) -> None:
    model = tiny("gemma3")
    row = Tokenizer(model, PromptForm("", SUFFIX, "chat")).rows(["It rained."])[0]
    decoded = model.tokenizer.decode(row.ids.tolist())
    assert decoded == f"<bos><start>user\nIt rained.{SUFFIX}<end>\n<start>model\n"
    assert (row.ids == 1).sum() == 1
    own = model.tokenizer.decode(row.ids[row.own_start : row.own_end].tolist())
    assert own == "It rained."
    assert row.last == len(row.ids) - 1


def test_a_chat_template_that_trims_the_text_is_refused_by_name(tiny: Any) -> None:
    tokenizer = Tokenizer(tiny("gemma3"), PromptForm(template="chat"))
    with pytest.raises(DataError, match=r"text 1: the chat template changes this text"):
        tokenizer.rows(["It rained.", "It rained. "])
    assert len(tokenizer.rows(["It rained.", "It rained again."])) == 2


@pytest.mark.parametrize("text", ["user", "s", "model", "start"])
def test_a_text_that_says_what_the_template_says_is_found_in_its_own_turn(text: str, tiny: Any) -> None:
    model = tiny("gemma3")
    row = Tokenizer(model, PromptForm(template="chat")).rows([text])[0]
    before, own = row.ids[: row.own_start].tolist(), row.ids[row.own_start : row.own_end].tolist()
    assert model.tokenizer.decode(before) == "<bos><start>user\n"
    assert model.tokenizer.decode(own) == text


def test_a_chat_template_is_needed_for_chat(tiny: Any) -> None:
    with pytest.raises(ModelError, match=r"has no chat template: use --template none"):
        Tokenizer(tiny("gpt2"), PromptForm(template="chat"))
    with pytest.raises(OptionError, match=r"'html' is none of none, chat"):
        PromptForm(template="html")


def test_a_slow_tokenizer_is_refused(tiny: Any) -> None:
    class Slow:
        is_fast = False
        model_max_length = 512

    model = wrap_model(tiny("llama").model, Slow())
    with pytest.raises(ModelError, match=r"gives no character offsets"):
        Tokenizer(model, PromptForm())


def test_a_table_gives_the_rows_one_by_one_and_in_slices(tiny: Any) -> None:
    tokenizer = Tokenizer(tiny("gemma3"), PromptForm(suffix=SUFFIX))
    texts = list(ODD_TEXTS.values())
    table = tokenizer.rows(texts)
    alone = [tokenizer.rows([text])[0] for text in texts]
    assert len(table) == len(texts)
    for rows in (table, TokenTable.concat([table[:3], table[3:3], table[3:]]), table[::-1][::-1]):
        for row, expected in zip(rows, alone, strict=True):
            assert row.ids.tolist() == expected.ids.tolist()
            assert row[1:] == expected[1:]
            assert row.ids.dtype == np.int64
    assert table[-1].ids.tolist() == alone[-1].ids.tolist()
    assert [r.ids.tolist() for r in table[5:1:-2]] == [alone[5].ids.tolist(), alone[3].ids.tolist()]
    assert table.lengths.tolist() == [len(r.ids) for r in alone]
    assert table.n_tokens == sum(len(r.ids) for r in alone)
    assert (table.n_truncated, table.last_assistant.tolist()) == (0, [-1] * len(texts))
    with pytest.raises(IndexError):
        table[len(texts)]


def test_no_texts_make_an_empty_table(tiny: Any) -> None:
    table = Tokenizer(tiny("llama"), PromptForm()).rows([])
    assert (len(table), table.n_tokens, list(table), table.lengths.tolist()) == (0, 0, [], [])


def test_a_table_holds_four_bytes_a_token_and_a_few_a_text(tiny: Any) -> None:
    table = Tokenizer(tiny("llama"), PromptForm()).rows([f"It rained {i} times." for i in range(500)])
    held = (table.ids, table.offsets, table.positions, table.truncated)
    assert sum(a.nbytes for a in held) == 4 * table.n_tokens + 25 * 500 + 8


@pytest.mark.parametrize("template", ["none", "chat"])
def test_how_many_texts_are_tokenised_together_does_not_matter(
    template: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{i} " + "It rained again. " * (i % 9) + "Yes." for i in range(40)]
    tokenizer = Tokenizer(tiny("llama"), PromptForm("", SUFFIX, template), max_tokens=80)
    whole = tokenizer.rows(texts)
    assert 0 < whole.n_truncated < 40
    for rows, characters in ((7, 10**6), (1, 10**6), (2048, 100), (2048, 1)):
        monkeypatch.setattr(tokens, "_CHUNK_TEXTS", rows)
        monkeypatch.setattr(tokens, "_CHUNK_CHARACTERS", characters)
        again = tokenizer.rows(texts)
        for name in ("ids", "offsets", "positions", "truncated"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
        with pytest.raises(DataError, match=r"^line 39 begins with the model's BOS"):
            Tokenizer(tiny("llama"), PromptForm()).rows([*texts[:39], "<bos>x"], lambda i: f"line {i}")


def test_a_cut_text_among_others_leaves_them_as_they_are(tiny: Any) -> None:
    model, long = tiny("llama"), "It rained and rained. " * 30
    texts = [long, "Yes.", long, "No.", "It rained.", long]
    table = Tokenizer(model, PromptForm(suffix=SUFFIX), 60).rows(texts)
    assert table.truncated.tolist() == [True, False, True, False, False, True]
    for i, text in enumerate(texts):
        kept = model.tokenizer.decode(table[i].ids.tolist()).removeprefix("<bos>").removesuffix(SUFFIX)
        assert (text.startswith(kept) and len(table[i].ids) > 55) if table.truncated[i] else kept == text
