"""Rows of text files: JSONL, CSV, Parquet, or plain text with a text a line; each with its place, for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from strataprobe.errors import DataError

Row = tuple[str, dict[str, Any]]
_PARQUET_ROWS_AT_ONCE = 4096


def iter_rows(path: Path) -> Iterator[Row]:
    """Rows of a .jsonl, .csv, .parquet or .txt file (a text a line), each with its place ("file, line 3") for messages.

    One row is held at a time (of Parquet, a few thousand), so what is wrong with a row is raised where it is reached:
    DataError when the file is missing, of another kind, not UTF-8, or a line is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: give a .jsonl, .csv, .parquet or .txt file of texts.")
    readers = {".jsonl": _iter_jsonl, ".csv": _iter_csv, ".txt": _iter_txt, ".parquet": _iter_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown kind: texts are read from .jsonl, .csv, .parquet or .txt files.")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def parse_jsonl(lines: Iterable[str], source: str) -> Iterator[Row]:
    """Rows of JSONL lines, blank lines passed over. Raises DataError naming the line that is not a JSON object."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            value = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at")
            raise DataError(
                f"{place} is not JSON ({what} at column {error.colno}): each line must be one JSON object."
            ) from error
        if not isinstance(value, dict):
            raise DataError(f'{place} is not a JSON object: each line must look like {{"text": "..."}}.')
        yield place, value


def split_lines(text: str) -> list[str]:
    """Lines ended by a newline (or carriage return and newline) only: other separators may stand inside a text."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _iter_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from parse_jsonl(file, str(path))


def _iter_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            if "text" not in (reader.fieldnames or []):
                raise DataError(f"{path} has no column 'text': its first line must name the columns.")
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row:
                    raise DataError(
                        f"{place} has more values than the first line has names: quote those that hold a comma."
                    )
                yield place, {k: v for k, v in row.items() if v not in (None, "")}
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def _iter_txt(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:  # no line separators but \n, \r and \r\n end a line here
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", {"text": line.removesuffix("\n")}


def _iter_parquet(path: Path) -> Iterator[Row]:
    try:
        import pandas as pd
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{path} needs the parquet extra: pip install 'strataprobe[parquet]'.") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS_AT_ONCE):
                # whole numbers stay whole in a batch that lacks some, as in one that has them all
                for record in batch.to_pandas(integer_object_nulls=True).to_dict("records"):
                    number += 1
                    kept = {str(k): _plain(v) for k, v in record.items() if pd.isna(v) is not True}
                    yield f"{path}, row {number}", kept
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split()).rstrip('.')}.") from error


def _plain(value: Any) -> Any:
    """A Parquet value as a JSON value: arrays as lists, dates as their text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else value
