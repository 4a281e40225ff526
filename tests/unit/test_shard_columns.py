"""Shards put together into columns: the right rows in any order, and few files opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import strataprobe.capture.shards as shards_module
from strataprobe.capture.shardfile import write_shard
from strataprobe.capture.shards import Plan, ShardFolder
from strataprobe.errors import StageError

N, WIDTH, N_SHARDS = 1000, 8, 50
NAMES = ("mean.0", "last.1")


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(N, WIDTH)).astype(np.float32) for name in NAMES}


@pytest.fixture
def shards(vectors: dict[str, np.ndarray], tmp_path: Path) -> ShardFolder:
    """Shards of rows that meet in no order of theirs."""
    batches = np.array_split(np.random.default_rng(2).permutation(N), N_SHARDS)
    plan, path = Plan.of(batches, 400), tmp_path / "main"
    path.mkdir()
    plan.write(path / shards_module.PLAN_NAME)
    for i, rows in enumerate(batches):
        write_shard(path / f"{i:06d}.safetensors", {name: vectors[name][rows] for name in NAMES})
    folder = ShardFolder.open(path, plan, np.full(N, 20), NAMES)
    assert folder.missing == []
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Shards whose rows were read, one entry each time."""
    paths: list[Path] = []
    read_rows = shards_module.read_rows

    def counted(path: Path, *where: object) -> object:
        paths.append(path)
        return read_rows(path, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(shards_module, "read_rows", counted)
    return paths


@pytest.mark.parametrize(("least", "most"), [(0, 64), (0, 2**20), (2**20, 2**20)])
def test_a_column_has_the_rows_asked_for_in_their_order(
    least: int,
    most: int,
    shards: ShardFolder,
    vectors: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards_module, "_BLOCK_BYTES", least)
    monkeypatch.setattr(shards_module, "_MOST_BLOCK_BYTES", most)
    rows = np.random.default_rng(3).permutation(N)[:700]
    for name in NAMES:
        column = shards.column(name, shards.rows_at(rows))
        assert column.shape == (700, WIDTH)
        found = np.concatenate([column[a : a + 90] for a in range(0, 700, 90)])
        np.testing.assert_array_equal(found, vectors[name][rows])
        parts = column.split([10, 0, 690])
        assert [part.shape for part in parts] == [(10, WIDTH), (0, WIDTH), (690, WIDTH)]
        np.testing.assert_array_equal(parts[2][5:300], vectors[name][rows[15:310]])


def test_a_block_takes_several_rows_of_each_shard_it_opens(
    shards: ShardFolder, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_BLOCK_BYTES", 10 * 4 * WIDTH)
    column = shards.column("last.1", shards.rows_at(np.arange(N)))
    for a in range(0, N, 7):
        column[a : a + 7]
    n_blocks = N // (shards_module._ROWS_OF_SHARD * N_SHARDS)
    assert 0 < len(opened) <= n_blocks * N_SHARDS


def test_only_shards_with_rows_are_opened(shards: ShardFolder, opened: list[Path]) -> None:
    rows = np.concatenate([shards.plan.rows(3), shards.plan.rows(40)[:2]])
    shards.column("last.1", shards.rows_at(rows))[: len(rows)]
    assert opened == [shards.file(3), shards.file(40)]


@pytest.mark.parametrize("n_bytes", [0, 10, -30])
def test_a_shard_damaged_before_it_is_closed_is_a_sentence(n_bytes: int, shards: ShardFolder) -> None:
    for batch in (0, 7):
        whole = shards.file(batch).read_bytes()
        shards.file(batch).write_bytes(whole[:n_bytes])
        again = ShardFolder.__new__(ShardFolder)
        again.path, again.plan, again.lengths, again.names = shards.path, shards.plan, shards.lengths, shards.names
        with pytest.raises(StageError, match=rf"{batch:06d}.safetensors is damaged .*: run the same command again"):
            again.column("last.1", again.rows_at(np.arange(N)))[:N]
        shards.file(batch).write_bytes(whole)


def test_a_shard_cut_short_while_it_is_closed_is_a_sentence(shards: ShardFolder) -> None:
    column = shards.column("last.1", shards.rows_at(np.arange(N)))
    shards.file(7).write_bytes(shards.file(7).read_bytes()[:-30])
    with pytest.raises(StageError, match=r"000007.safetensors is damaged .*: run the same command again"):
        column[:N]
