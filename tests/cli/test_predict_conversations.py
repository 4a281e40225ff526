"""Probes on conversations, from Python and the command line: each applied in the form it was captured in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strataprobe as sp
from builders import save_model
from plain_hook import SUFFIX
from strataprobe.errors import DataError, ProbeError
from strataprobe.models import load_model
from strataprobe.predict.scorer import Scorer
from strataprobe.probes.probe import Probe, ProbeSet

Cli = Callable[..., tuple[int, str, str]]
USER = {"role": "user", "content": "How was the coast?"}
ANSWER = {"role": "assistant", "content": "It rained."}
AGAIN = {"role": "user", "content": "And the window seat?"}
CHATS = [[USER, ANSWER], [USER, ANSWER, AGAIN]]


def probes_on(layer: int = 2, readout: str = "last", **more: Any) -> ProbeSet:
    weights = np.random.default_rng(layer).normal(size=(2, 32)).astype(np.float32)
    return ProbeSet([Probe(w, 0.1, c, layer, layer - 1, readout, **more) for w, c in zip(weights, "ab", strict=True)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny", "gemma3_text")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved(readout, ...)``: a folder with probes of that form, written once."""
    folder = tmp_path_factory.mktemp("probes")

    def write(**form: Any) -> Path:
        path = folder / str(abs(hash(json.dumps(form, sort_keys=True))))
        path.mkdir(exist_ok=True)
        for probe in probes_on(**form).values():
            probe.save(path / f"probe_{probe.action}.pth")
        return path

    return write


@pytest.mark.parametrize("readout", ["last", "mean", "last-text", "last-assistant"])
def test_a_conversation_gives_the_logits_of_its_own_vectors(model: Path, readout: str) -> None:
    loaded = load_model(model)
    probes = probes_on(readout=readout, suffix=SUFFIX, template="chat")
    (found,) = Scorer(loaded, [probes]).logits(CHATS)
    acts = sp.capture(CHATS, loaded, layers=2, readout=readout, suffix=SUFFIX, template="chat")
    np.testing.assert_allclose(found, probes.logits(acts.layer(2)), rtol=1e-5, atol=1e-5)


def test_each_probe_set_is_applied_with_its_own_prefix_suffix_template_and_readout(model: Path) -> None:
    loaded, texts = load_model(model), ["It rained.", "We sat by the window for an hour."]
    forms = [
        {"suffix": SUFFIX},
        {"template": "chat", "prefix": "Text:\n"},
        {"readout": "mean", "template": "chat"},
        {"layer": 1, "readout": "last-text"},
    ]
    sets = [probes_on(**form) for form in forms]
    for form, probes, found in zip(forms, sets, Scorer(loaded, sets).logits(texts), strict=True):
        acts = sp.capture(texts, loaded, **{"layers": 2, "readout": "last", **_renamed(form)})
        np.testing.assert_allclose(found, probes.logits(acts.layer(probes.layer)), rtol=1e-5, atol=1e-5)


def _renamed(form: dict[str, Any]) -> dict[str, Any]:
    return {"layers" if name == "layer" else name: value for name, value in form.items()}


def test_what_the_probes_cannot_read_is_refused_by_name(model: Path) -> None:
    loaded = load_model(model)
    plain, answers = probes_on(), probes_on(readout="last-assistant", template="chat")
    with pytest.raises(DataError, match=r"^text 1 is a conversation, and the probes were trained on plain text"):
        Scorer(loaded, [plain]).logits(["It rained.", CHATS[0]])
    with pytest.raises(DataError, match=r"^text 1 is a conversation"):
        Scorer(loaded, [answers, plain]).logits([CHATS[0], CHATS[1]], lambda i: f"text {i + 1}")
    for texts in ([CHATS[0], "It rained."], [CHATS[1], [USER]]):
        with pytest.raises(DataError, match=r"^text 1 has no message by the assistant, which readout 'last-assistant'"):
            Scorer(loaded, [answers]).logits(texts)
    with pytest.raises(DataError, match=r"^texts is one conversation: pass a list"):
        Scorer(loaded, [answers]).logits(CHATS[0])  # type: ignore[arg-type]
    assert [len(Scorer(loaded, [s]).logits([t])[0]) for s, t in ((plain, "It rained."), (answers, CHATS[0]))] == [1, 1]


def test_probes_of_a_form_that_is_not_known_here_are_refused(model: Path, saved: Callable[..., Path]) -> None:
    for form, words in (({"readout": "first"}, "readout 'first'"), ({"template": "html"}, "template 'html'")):
        with pytest.raises(ProbeError, match=rf"^the probes have the {words}, which this release does not know"):
            sp.MultiProbeInference(saved(**form), model)


def test_python_takes_a_conversation_wherever_it_takes_a_text(model: Path, saved: Callable[..., Path]) -> None:
    folder = saved(template="chat", readout="last-assistant")
    one = sp.MultiProbeInference(folder, model)
    expected = one.predict_batch(CHATS)
    assert expected[0] != expected[1] or one.logits(CHATS)[0] == pytest.approx(one.logits(CHATS)[1], abs=1e-4)
    for messages, row in zip(CHATS, expected, strict=True):
        for found in (
            one.predict(messages),
            sp.predict_together({"mine": one}, messages)["mine"],
            sp.UniversalMultiLayerInference(model, {"k": folder}).predict_by_layer(messages)["k"],
        ):
            assert [p["action"] for p in found] == [p["action"] for p in row]
            assert [p["probability"] for p in found] == pytest.approx([p["probability"] for p in row], abs=1e-5)


def test_a_file_of_conversations_gives_what_python_gives(
    cli: Cli, model: Path, saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    folder = saved(template="chat", suffix=SUFFIX)
    rows = [{"messages": CHATS[0]}, {"messages": CHATS[1]}, {"text": "It rained."}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "x.jsonl").write_text(lines)
    pandas.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    expected = sp.MultiProbeInference(folder, model).predict_batch([*CHATS, "It rained."])
    for file in (tmp_path / "x.jsonl", tmp_path / "x.parquet", "-"):
        status, out, _ = cli("predict", "--file", file, "--probes", folder, "--model", model, "--json")
        assert status == 0
        found = [json.loads(line) for line in out.splitlines()]
        assert [row["text"] for row in found] == ["It rained.", "And the window seat?", "It rained."]
        assert [row["predictions"] for row in found] == expected
    assert (
        "And the window seat?"
        in cli("predict", "--file", tmp_path / "x.jsonl", "--probes", folder, "--model", model)[1]
    )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "It rained. "}, "the chat template changes this text"),
        ({"text": "It rained."}, "has no message by the assistant"),
        ({"messages": [USER]}, "has no message by the assistant"),
        ({"messages": []}, "has an empty list of messages"),
        ({"label": "a"}, "has no 'text'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_line(
    cli: Cli, model: Path, saved: Callable[..., Path], tmp_path: Path, row: dict[str, Any], sentence: str
) -> None:
    file = tmp_path / "x.jsonl"
    good = {"messages": CHATS[0]}
    file.write_text("\n".join(json.dumps(r) for r in (good, good, row, good)))
    answers = "text" not in row or row["text"] == "It rained."
    folder = saved(template="chat", readout="last-assistant" if answers else "last")
    for more in ((), ("--ensemble", "2")):
        base = ("predict", "--file", file, "--probes", folder, "--model", model, "--json", *more)
        status, out, err = cli(*base)
        assert (status, out) == (2, "")
        assert f"x.jsonl, line 3{' ' if sentence.startswith('has') else ': '}{sentence}" in " ".join(err.split())
    file.write_text(json.dumps(good) + "\n")
    assert cli(*base)[0] == 0


def test_a_line_of_plain_text_that_cannot_be_read_is_named_too(
    cli: Cli, model: Path, saved: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "x.txt"
    for text, expected in (("<bos>It rained.", 2), ("It <bos> rained.", 0)):
        file.write_text(f"Yes.\n\n{text}\n")
        status, _, err = cli("predict", "--file", file, "--probes", saved(), "--model", model)
        assert status == expected
        assert ("x.txt, line 3 begins with the model's BOS token" in " ".join(err.split())) == bool(expected)
