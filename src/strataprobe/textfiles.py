"""Rows of text files: JSONL, CSV, Parquet, or plain text with a text a line; each with its place, for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from strataprobe.errors import DataError


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a .jsonl, .csv, .parquet or .txt file (a text a line), each with its place ("file, line 3") for messages.

    Raises DataError when the file is missing, of another kind, not UTF-8, or a line is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: give a .jsonl, .csv, .parquet or .txt file of texts.")
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".txt": _read_txt, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown kind: texts are read from .jsonl, .csv, .parquet or .txt files.")
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def parse_jsonl(lines: Iterable[str], source: str) -> list[tuple[str, dict[str, Any]]]:
    """Rows of JSONL lines, blank lines passed over. Raises DataError naming the line that is not a JSON object."""
    rows = []
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
        rows.append((place, value))
    return rows


def _read_jsonl(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        return parse_jsonl(file, str(path))


def _read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if "text" not in (reader.fieldnames or []):
            raise DataError(f"{path} has no column 'text': its first line must name the columns.")
        try:
            rows = []
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row:
                    raise DataError(
                        f"{place} has more values than the first line has names: quote those that hold a comma."
                    )
                rows.append((place, {k: v for k, v in row.items() if v not in (None, "")}))
            return rows
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def split_lines(text: str) -> list[str]:
    """Lines ended by a newline (or carriage return and newline) only: other separators may stand inside a text."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _read_txt(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        lines = split_lines(file.read())
    return [(f"{path}, line {i}", {"text": line}) for i, line in enumerate(lines, start=1) if line.strip()]


def _read_parquet(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        import pandas as pd

        records = pd.read_parquet(path).to_dict("records")
    except ImportError as error:
        raise DataError(f"{path} needs the parquet extra: pip install 'strataprobe[parquet]'.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    kept = [{str(k): _plain(v) for k, v in record.items() if pd.isna(v) is not True} for record in records]
    return [(f"{path}, row {i}", record) for i, record in enumerate(kept, start=1)]


def _plain(value: Any) -> Any:
    """A Parquet value as a JSON value: arrays as lists, dates as their text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else value
