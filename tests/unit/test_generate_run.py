"""The generate stage as a whole, with the built-in writer: counts, pairs, splits, determinism, resuming after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from strataprobe.dataset import read_dataset
from strataprobe.errors import OptionError, StageError
from strataprobe.generate.builtin.writer import TaleWriter
from strataprobe.generate.ledger import LEDGER_NAME
from strataprobe.generate.run import generate
from strataprobe.generate.words import checker_for, count_sentences, is_first_person
from strataprobe.manifest import verify_folder
from strataprobe.neardup import near_duplicate_pairs
from strataprobe.recipe import Recipe, load_recipe

RECIPE = load_recipe("sentiment")


def rows_of(folder: Path) -> list[dict]:
    name = json.loads((folder / "manifest.json").read_text())["details"]["combined"]
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def data_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "manifest.json"}


def in_subprocess(out: Path, n: int, hash_seed: str) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from strataprobe.recipe import load_recipe;"
        "from strataprobe.generate.run import generate;"
        f"generate(load_recipe('sentiment'), Path(sys.argv[1]), n_per_class={n})"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, str(out)], env=env, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    out = tmp_path_factory.mktemp("full") / "data"
    generate(RECIPE, out)
    return out


@pytest.fixture(scope="module")
def rows(full):
    return rows_of(full)


def test_the_folder_holds_the_files_the_pipeline_reads(full):
    names = {p.name for p in full.iterdir()}
    assert names == {
        "positive_sentiment_700.jsonl",
        "negative_sentiment_700.jsonl",
        "sentiment_combined_1400.jsonl",
        "plan.jsonl",
        "audit.json",
        "manifest.json",
    }
    assert verify_folder(full) == []
    dataset = read_dataset(full)
    assert dataset.class_names == ["negative", "positive"]
    assert len(dataset.rows) == 1400


def test_a_row_has_its_fields_in_the_published_order(rows):
    assert list(rows[0]) == [
        "id", "text", "label", "split", "group", "sentiment", "emotion", "domain", "trigger", "language_style", "backend",
        "model", "attempt",
    ]  # fmt: skip
    assert all(r["sentiment"] == r["label"] for r in rows)
    assert {(r["backend"], r["model"], r["attempt"]) for r in rows} == {("builtin", "builtin", 1)}


def test_a_class_file_is_the_combined_file_filtered(full, rows):
    for label in ("positive", "negative"):
        own = [json.loads(line) for line in (full / f"{label}_sentiment_700.jsonl").read_text("utf-8").splitlines()]
        assert own == [r for r in rows if r["label"] == label]


def test_counts_are_exact_and_emotions_even(rows):
    assert Counter(r["label"] for r in rows) == {"positive": 700, "negative": 700}
    assert set(Counter(r["emotion"] for r in rows).values()) == {70}
    assert len({r["emotion"] for r in rows}) == 20
    assert len({r["domain"] for r in rows}) >= 20
    assert len({r["language_style"] for r in rows}) >= 6


def test_uneven_numbers_spread_over_the_emotions_within_one(tmp_path):
    generate(RECIPE, tmp_path / "data", n_per_class=33)
    found = rows_of(tmp_path / "data")
    assert Counter(r["label"] for r in found) == {"positive": 33, "negative": 33}
    assert set(Counter(r["emotion"] for r in found).values()) == {3, 4}


def test_both_sides_of_a_pair_share_scene_group_style_and_split(rows):
    pairs: dict[str, list[dict]] = {}
    for row in rows:
        pairs.setdefault(row["id"].rsplit("-", 1)[0], []).append(row)
    assert len(pairs) == 700
    for a, b in pairs.values():
        assert {a["label"], b["label"]} == {"positive", "negative"}
        for field in ("group", "split", "domain", "trigger", "language_style"):
            assert a[field] == b[field]
        shared = set(a["text"].split()) & set(b["text"].split())
        assert len(shared) >= 5, (a["text"], b["text"])


def test_a_group_lies_in_one_split_and_every_split_is_balanced(rows):
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(s) == 1 for s in splits.values())
    by_split = Counter((r["split"], r["label"]) for r in rows)
    for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        assert by_split[split, "positive"] == by_split[split, "negative"]
        assert abs(by_split[split, "positive"] - share * 700) <= 3


def test_every_text_is_two_to_four_first_person_sentences(rows):
    for row in rows:
        assert 2 <= count_sentences(row["text"]) <= 4, row["text"]
        assert is_first_person(row["text"]), row["text"]
        assert not set("[]{}|") & set(row["text"]), row["text"]
        assert "  " not in row["text"]
        assert row["text"][-1] in ".!?"


def test_no_text_names_its_emotion_or_class_and_planted_words_are_found(rows):
    checker = checker_for(RECIPE)
    assert [r["text"] for r in rows if checker.find(r["text"])] == []
    assert checker.find(rows[0]["text"] + " I was hopelessly saddened.") == ["hopelessly", "saddened"]


def test_no_text_is_written_twice_not_even_nearly(rows):
    texts = [r["text"] for r in rows]
    assert len(set(texts)) == len(texts)
    assert near_duplicate_pairs(texts) == []
    assert near_duplicate_pairs([*texts, texts[7].replace("I ", "We ", 1)]) != []


def test_a_bag_of_words_does_not_give_the_class_away(full):
    leak = json.loads((full / "audit.json").read_text())["leak"]
    assert leak["auc"] <= 0.90
    assert leak["auc"] > 0.5


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_another_hash_seed(full, tmp_path):
    processes = [in_subprocess(tmp_path / seed / "data", 30, seed) for seed in ("1", "77")]
    assert [p.wait(120) for p in processes] == [0, 0]
    generate(RECIPE, tmp_path / "here" / "data", n_per_class=30)
    assert data_bytes(tmp_path / "1" / "data") == data_bytes(tmp_path / "77" / "data")
    assert data_bytes(tmp_path / "1" / "data") == data_bytes(tmp_path / "here" / "data")


def test_another_seed_gives_other_texts(tmp_path):
    generate(RECIPE, tmp_path / "a", n_per_class=40, seed=0)
    generate(RECIPE, tmp_path / "b", n_per_class=40, seed=1)
    a, b = ({r["text"] for r in rows_of(tmp_path / name)} for name in ("a", "b"))
    assert len(a & b) <= 2


def test_a_run_killed_half_way_is_completed_to_the_same_bytes(tmp_path):
    n = 300
    out = tmp_path / "killed" / "data"
    ledger = out.with_name(".data.partial") / LEDGER_NAME
    process = in_subprocess(out, n, "3")
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        if ledger.exists() and ledger.read_bytes().count(b"\n") >= 100:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait(60) == -signal.SIGKILL
    kept = ledger.read_bytes()
    n_kept = kept.count(b"\n")
    assert 100 <= n_kept < 2 * n
    assert not out.exists()
    with ledger.open("ab") as file:
        file.write(b'{"cell": "sentiment-0')  # a line that the kill tore
    generate(RECIPE, out, n_per_class=n)
    first = [json.loads(line) for line in kept.splitlines()[:n_kept]]
    finished = {r["id"]: r for r in rows_of(out)}
    assert all(finished[r["cell"]]["text"] == r["text"] for r in first)
    generate(RECIPE, tmp_path / "whole", n_per_class=n)
    assert data_bytes(out) == data_bytes(tmp_path / "whole")
    assert not (out / LEDGER_NAME).exists()


def test_rows_already_accepted_are_not_written_again(tmp_path, monkeypatch):
    asked = []
    original = TaleWriter.write

    def interrupted(self, cell):
        asked.append((cell.pair, cell.label))
        if len(asked) == 31:
            raise KeyboardInterrupt
        return original(self, cell)

    monkeypatch.setattr(TaleWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(RECIPE, tmp_path / "data", n_per_class=25)
    first, asked[:] = list(asked[:30]), [(-1, "")] * 100
    generate(RECIPE, tmp_path / "data", n_per_class=25)
    second = asked[100:]
    assert len(second) == 20
    assert not set(first) & set(second)


def test_a_finished_folder_is_left_alone_and_other_options_are_refused(tmp_path):
    first = generate(RECIPE, tmp_path / "data", n_per_class=10)
    before = (tmp_path / "data" / "manifest.json").stat().st_mtime_ns
    again = generate(RECIPE, tmp_path / "data", n_per_class=10)
    assert again == first
    assert (tmp_path / "data" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(StageError, match="n_per_class"):
        generate(RECIPE, tmp_path / "data", n_per_class=11)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({}, {"backend": "typewriter"}, "none of builtin, ollama, openai, transformers"),
        ({}, {"n_per_class": 0}, "at least 1"),
        ({"name": "moods"}, {}, "no material for the recipe 'moods'.*--data FILE"),
        ({"writing": {"language": "de"}}, {}, "writes English.*'de'"),
        ({"classes": [{"name": "up"}, {"name": "down"}], "lexicon": None}, {}, "no class"),
    ],
)
def test_what_the_writer_cannot_do_is_said_in_a_sentence(tmp_path, change, options, match):
    recipe = Recipe.model_validate({**RECIPE.to_json(), **change})
    with pytest.raises(OptionError, match=match):
        generate(recipe, tmp_path / "data", **options)
    assert list(tmp_path.iterdir()) == []


def test_running_out_of_variety_is_said_and_nothing_is_repeated(tmp_path, monkeypatch):
    from strataprobe.generate.builtin import backend
    from strataprobe.generate.builtin.material import load_material

    whole = load_material(RECIPE, "sentiment")
    few = {c: {m: {"any": k["any"][:2]} for m, k in members.items()} for c, members in whole.reactions.items()}
    scene = next(s for s in whole.scenes if s.kind == "life" and not s.planned)
    turns = {c: {"any": kinds["any"][:1]} for c, kinds in whole.turns.items()}
    openers = {style: sentences[:1] for style, sentences in whole.openers.items()}
    small = replace(whole, scenes=(scene,), reactions=few, turns=turns, openers=openers, aftermath=turns)
    monkeypatch.setattr(backend, "load_material", lambda recipe, name: small)
    with pytest.raises(OptionError, match="variety runs out after"):
        generate(RECIPE, tmp_path / "data", n_per_class=900)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_whose_classes_are_emotions_is_written_with_the_same_material(tmp_path):
    manifest = generate(load_recipe("emotions"), tmp_path / "data", n_per_class=3)
    found = rows_of(tmp_path / "data")
    assert set(manifest.details["counts"].values()) == {3}
    assert len(manifest.details["counts"]) == 20
    assert list(found[0]) == [
        "id", "text", "label", "split", "group", "emotion", "domain", "trigger", "language_style", "backend", "model",
        "attempt",
    ]  # fmt: skip
    assert all(r["emotion"] == r["label"] for r in found)
