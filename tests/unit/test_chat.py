"""Conversations in a chat template: where the last message and the assistant's stand, what is refused, what is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strataprobe as sp
from builders import CHAT_TEMPLATE, tiny_tokenizer
from plain_hook import SUFFIX, relative
from strataprobe.capture.positions import check_rows
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.errors import DataError, OptionError
from strataprobe.models import LoadedModel, wrap_model

GEMMA = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for m in turns -%}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (first if loop.first else '')"
    " + m['content'] | trim + '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# leaves what the assistant thought out of its earlier messages, and messages of other roles out altogether
THINKING = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] in ('user', 'assistant') %}[{{ m['role'] }}]"
    "{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' and not loop.last else m['content'] }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {"tiny": CHAT_TEMPLATE, "gemma": GEMMA, "chatml": CHATML, "thinking": THINKING}

USER = {"role": "user", "content": "How was the coast?"}
ANSWER = {"role": "assistant", "content": "It rained, and I said model and user twice."}
AGAIN = {"role": "user", "content": "And the window seat?"}
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda t: t.strip() == t)


def model_with(template: str, tiny: Any, family: str = "llama") -> LoadedModel:
    tokenizer = tiny_tokenizer("bos")
    tokenizer.chat_template = template
    return wrap_model(tiny(family).model, tokenizer)


def written(model: LoadedModel, row: TokenRow, begin: int = 0, end: int | None = None) -> str:
    return str(model.tokenizer.decode(row.ids[begin:end].tolist()))


def by_the_library(model: LoadedModel, messages: list[dict[str, str]], suffix: str = "") -> list[int]:
    """The library's own ids of a conversation, with a suffix at the end of its last message."""
    last = {**messages[-1], "content": messages[-1]["content"] + suffix}
    answers = last["role"] == "assistant"
    found = model.tokenizer.apply_chat_template(
        [*messages[:-1], last], continue_final_message=answers, add_generation_prompt=not answers, return_dict=True
    )
    return list(found["input_ids"])


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("suffix", ["", SUFFIX])
@pytest.mark.parametrize(
    "messages", [[USER], [USER, ANSWER], [USER, ANSWER, AGAIN], [SYSTEM, USER, ANSWER, AGAIN, ANSWER]]
)
def test_the_last_message_is_the_text_and_the_string_is_the_librarys(
    template: str, suffix: str, messages: list[dict[str, str]], tiny: Any
) -> None:
    model = model_with(template, tiny)
    (row,) = Tokenizer(model, PromptForm(suffix=suffix, template="chat")).rows([messages])
    assert row.ids.tolist() == by_the_library(model, messages, suffix)
    assert written(model, row, row.own_start, row.own_end) == messages[-1]["content"]
    assert row.last == len(row.ids) - 1
    if ANSWER not in messages:
        assert row.last_assistant == -1
        return
    before = written(model, row, 0, row.last_assistant + 1)
    assert before.endswith(ANSWER["content"])
    assert before.count(ANSWER["content"]) == messages.count(ANSWER)
    if messages[-1] is ANSWER:
        assert row.last_assistant == row.own_end - 1
        assert written(model, row).endswith(ANSWER["content"] + suffix)


@settings(max_examples=30)
@given(said=st.lists(words, min_size=1, max_size=5), suffix=st.sampled_from(["", SUFFIX]))
def test_any_words_are_found_in_their_own_message(tiny: Any, said: list[str], suffix: str) -> None:
    model = model_with(GEMMA, tiny)
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    (row,) = Tokenizer(model, PromptForm(suffix=suffix, template="chat")).rows([messages])
    assert row.ids.tolist() == by_the_library(model, messages, suffix)
    string = model.tokenizer.decode(row.ids.tolist())
    tail = suffix if len(said) % 2 == 0 else f"{suffix}<end_of_turn>\n<start_of_turn>model\n"
    encoded = model.tokenizer(string, add_special_tokens=False, return_offsets_mapping=True)
    end = len(string) - len(tail)
    begins = [a for a, _ in encoded["offset_mapping"]]
    own = [i for i, a in enumerate(begins) if end - len(said[-1]) <= a < end]
    assert own == list(range(row.own_start, row.own_end))
    if len(said) == 1:
        assert row.last_assistant == -1
    elif len(said) % 2 == 0:
        assert row.last_assistant == own[-1]
    else:
        answer_end = end - len(said[-1]) - len("<end_of_turn>\n<start_of_turn>user\n")
        assert row.last_assistant == max(i for i, a in enumerate(begins) if a < answer_end)


def test_prefix_and_suffix_stand_in_the_last_message_and_are_not_the_texts_own(tiny: Any) -> None:
    model = model_with(CHATML, tiny)
    form = PromptForm("Rate:\n", SUFFIX, "chat")
    asked, answered = Tokenizer(model, form).rows([[USER, ANSWER, AGAIN], [USER, ANSWER]])
    assert written(model, asked).endswith(f"user\nRate:\n{AGAIN['content']}{SUFFIX}<|im_end|>\n<|im_start|>assistant\n")
    assert written(model, answered).endswith(f"assistant\nRate:\n{ANSWER['content']}{SUFFIX}")
    assert written(model, asked, asked.own_start, asked.own_end) == AGAIN["content"]
    assert written(model, answered, answered.own_start, answered.own_end) == ANSWER["content"]
    assert answered.last_assistant == answered.own_end - 1 < answered.last


def test_a_plain_text_and_a_conversation_of_that_one_turn_are_the_same(tiny: Any) -> None:
    model = model_with(GEMMA, tiny)
    plain, turn = Tokenizer(model, PromptForm("a ", SUFFIX, "chat")).rows(
        ["It rained.", [{**USER, "content": "It rained."}]]
    )
    assert plain.ids.tolist() == turn.ids.tolist()
    assert plain[1:] == turn[1:]


def test_an_answer_that_the_template_shortens_ends_where_it_was_written_to_end(tiny: Any) -> None:
    trimmed, thought = ({"role": "assistant", "content": t} for t in ("It rained. \n", "<think>hm</think>It rained."))
    for template, answer in ((GEMMA, trimmed), (THINKING, thought)):
        model = model_with(template, tiny)
        (row,) = Tokenizer(model, PromptForm(template="chat")).rows([[USER, answer, AGAIN]])
        assert written(model, row, 0, row.last_assistant + 1).endswith("It rained.")
        assert "think" not in written(model, row)


def test_a_template_that_changes_or_drops_the_last_message_is_refused_by_name(tiny: Any) -> None:
    trims = Tokenizer(model_with(GEMMA, tiny), PromptForm(template="chat"))
    for spoiled in ("It rained. ", " It rained."):
        with pytest.raises(DataError, match=r"text 1: the chat template changes this text"):
            trims.rows([[USER], [USER, {**ANSWER, "content": spoiled}]])
        with pytest.raises(DataError, match=r"text 0: the chat template changes this text"):
            trims.rows([[USER, ANSWER, {**AGAIN, "content": spoiled}]])
    assert len(trims.rows([[{**USER, "content": " It rained. "}, ANSWER]])) == 1
    drops = Tokenizer(model_with(THINKING, tiny), PromptForm(template="chat"))
    with pytest.raises(DataError, match=r"text 0: the chat template leaves out the last message \(role 'tool'\)"):
        drops.rows([[USER, {"role": "tool", "content": "12 degrees"}]])
    unwritten = [{"role": "tool", "content": "12 degrees"}, USER]
    assert "degrees" not in written(drops.model, drops.rows([unwritten])[0])


@pytest.mark.parametrize("content", ["It rained.", [USER], [USER, ANSWER]], ids=["text", "user", "assistant"])
def test_a_prefix_or_suffix_that_the_template_strips_is_said_to_be_the_one(content: Any, tiny: Any) -> None:
    for form, option in (
        (PromptForm("", "\nIs it so? ", "chat"), r"--suffix '\\nIs it so\? '"),
        (PromptForm("\n\nRate: ", SUFFIX, "chat"), r"--prefix '\\n\\nRate: '"),
    ):
        with pytest.raises(OptionError, match=rf"^{option} is changed by the model's chat template"):
            Tokenizer(model_with(GEMMA, tiny), form).rows([content])
        assert len(Tokenizer(model_with(CHATML, tiny), form).rows([content])) == 1
    inside = PromptForm("Rate: ", "\n\nIs it so?", "chat")
    assert len(Tokenizer(model_with(GEMMA, tiny), inside).rows([content])) == 1
    with pytest.raises(DataError, match="text 0: the chat template changes this text"):
        Tokenizer(model_with(GEMMA, tiny), PromptForm("", "", "chat")).rows(["It rained. "])


def test_a_conversation_that_the_template_refuses_is_refused_by_name_in_its_words(tiny: Any) -> None:
    tokenizer = Tokenizer(model_with(GEMMA, tiny), PromptForm(template="chat"))
    with pytest.raises(
        DataError, match=r"^line 3: the model's chat template refuses it: Conversation roles must alt[^\n]*$"
    ):
        tokenizer.rows([[USER, USER]], lambda _: "line 3")
    broken = "{{ raise_exception('only\nwith tools') }}"
    for content in ("It rained.", [USER]):
        with pytest.raises(DataError, match=r"text 0: the model's chat template refuses it: only with tools\.$"):
            Tokenizer(model_with(broken, tiny), PromptForm(template="chat")).rows([content])
    assert len(tokenizer.rows([[USER, ANSWER, AGAIN]])) == 1


def test_a_conversation_needs_the_chat_template(tiny: Any) -> None:
    with pytest.raises(OptionError, match=r"line 2 is a conversation \('messages'\), which only --template chat reads"):
        Tokenizer(tiny("llama"), PromptForm()).rows(["It rained.", [USER]], lambda i: f"line {i + 1}")


@pytest.mark.parametrize("messages", [[SYSTEM, USER, ANSWER, AGAIN], [SYSTEM, USER, ANSWER]])
def test_a_long_last_message_is_cut_at_its_end_and_what_is_before_it_stays(
    messages: list[dict[str, str]], tiny: Any
) -> None:
    model = model_with(GEMMA, tiny)
    long = {**messages[-1], "content": "It rained.\n\n" + "We sat by the window for an hour.\n\n" * 60}
    long["content"] = long["content"].strip()
    context = len(
        Tokenizer(model, PromptForm(template="chat")).rows([[*messages[:-1], {**long, "content": "x"}]])[0].ids
    )
    for max_tokens in range(context + 20, context + 32):
        table = Tokenizer(model, PromptForm("", "\nend", "chat"), max_tokens).rows(
            [[SYSTEM, USER], [*messages[:-1], long]]
        )
        row = table[1]
        assert table.truncated.tolist() == [False, True]
        assert max_tokens - 4 <= len(row.ids) <= max_tokens
        kept = written(model, row, row.own_start, row.own_end)
        assert long["content"].startswith(kept)
        assert row.ids.tolist() == by_the_library(model, [*messages[:-1], {**long, "content": kept}], "\nend")
        answer = kept if len(messages) == 3 else ANSWER["content"]
        assert written(model, row, 0, row.last_assistant + 1).endswith(answer)
    with pytest.raises(
        OptionError, match=r"line 9: 40 tokens leave no room for the text beside prefix, suffix and template"
    ):
        Tokenizer(model, PromptForm(template="chat"), 40).rows([[*messages[:-1], long]], lambda _: "line 9")


def test_a_template_that_trims_takes_a_text_that_is_cut_behind_white_space(tiny: Any) -> None:
    model, text = model_with(GEMMA, tiny), "x" + "\n\n and\t \n so" * 30
    around = len(Tokenizer(model, PromptForm(template="chat")).rows(["x"])[0].ids)
    lengths = []
    for max_tokens in range(around + 1, around + 15):
        (row,) = Tokenizer(model, PromptForm(template="chat"), max_tokens).rows([text])
        assert row.truncated
        assert text.startswith(written(model, row, row.own_start, row.own_end))
        lengths.append(max_tokens - len(row.ids))
    assert min(lengths) == 0
    assert max(lengths) > 0  # some were cut further, to end behind a word


def test_a_row_without_an_answer_is_refused_where_the_answer_is_to_be_read(tiny: Any) -> None:
    table = Tokenizer(model_with(GEMMA, tiny), PromptForm(template="chat")).rows([[USER, ANSWER], "It rained.", [USER]])
    with pytest.raises(
        DataError, match=r"^line 1 has no message by the assistant, which readout 'last-assistant' reads"
    ):
        check_rows(table, ["last", "last-assistant"], lambda i: f"line {i}")
    check_rows(table, ["last", "mean", "last-text"], lambda i: f"line {i}")
    check_rows(table[:1], ["last", "last-assistant"], lambda i: f"line {i}")


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_the_vectors_of_a_conversation_are_those_of_its_string_read_alone(family: str, tiny: Any) -> None:
    model = model_with(GEMMA, tiny, family)
    rows = [[SYSTEM, USER, ANSWER], [USER, ANSWER, AGAIN], [USER, {**ANSWER, "content": "No."}, AGAIN, ANSWER]]
    readouts = ["last-assistant", "last", "mean", "last-text"]
    acts = sp.capture(rows, model.model, model.tokenizer, layers=[1, 3], readout=readouts, template="chat")
    for i, messages in enumerate(rows):
        (row,) = Tokenizer(model, PromptForm(template="chat")).rows([messages])
        string = model.tokenizer.decode(row.ids.tolist()).removeprefix("<bos>")
        answer = next(m["content"] for m in reversed(messages) if m["role"] == "assistant")
        upto = string[: string.rindex(answer) + len(answer)]
        alone = [sp.capture([s], model.model, model.tokenizer, layers=[1, 3], readout="last") for s in (string, upto)]
        for layer in (1, 3):
            assert relative(acts.layer(layer, "last")[i], alone[0].layer(layer)[0]) < 1e-5
            assert relative(acts.layer(layer, "last-assistant")[i], alone[1].layer(layer)[0]) < 1e-5
