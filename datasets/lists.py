"""Text lists as data sets ship them: UTF-8 with or without a byte-order mark, LF or CRLF, blank lines at the end.

Those variants are read alike. An empty file, a blank line in the middle or a line with another number of fields is an
error that names file, line and expectation: a list that was cut or mangled would otherwise shift every fold after it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import catalog
from datasets.errors import BadList


def read_lines(key: str, path: str | Path) -> list[str]:
    """Lines of a list file of data set `key`, without line ends and without blank lines at the end.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: empty, not UTF-8, or with a blank line between others.
    """
    path = catalog.require(key, path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadList(f"{path} is not UTF-8 text (byte {error.start}). Expected a plain text list.") from error
    lines = text.replace("\r\n", "\n").rstrip("\n\r \t").split("\n")
    if lines == [""]:
        raise BadList(f"{path} is empty. Get the file again from its makers.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise BadList(f"{path}, line {number}: blank line inside the list. Get the file again from its makers.")
    return lines


def split(path: str | Path, number: int, line: str, counts: Sequence[int], separator: str | None = "\t") -> list[str]:
    """Fields of line `number` (1-based), each stripped of spaces; `separator` None splits at white space.

    Raises:
        BadList: the number of fields is none of `counts`, or a field is empty.
    """
    fields = [field.strip() for field in line.split(separator)]
    if len(fields) not in counts or "" in fields:
        allowed = " or ".join(str(count) for count in counts)
        kind = {"\t": "tab-separated", ",": "comma-separated", None: "space-separated"}.get(separator, "")
        raise BadList(f"{path}, line {number}: expected {allowed} {kind} fields, got {len(fields)}: {line[:120]!r}.")
    return fields


def integer(path: str | Path, number: int, text: str, low: int = 0) -> int:
    """A decimal integer >= `low`.

    Raises:
        BadList: anything else.
    """
    if not (text.isascii() and text.lstrip("-").isdigit()) or int(text) < low:
        raise BadList(f"{path}, line {number}: expected an integer >= {low}, got {text!r}.")
    return int(text)


def read_csv(key: str, path: str | Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file with a header, as (line number, {column: value}); outer spaces are dropped.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: empty, a required column is missing, or a row has another number of fields than the header.
    """
    lines = read_lines(key, path)
    header = [name.strip() for name in next(csv.reader(lines[:1]))]
    missing = [name for name in required if name not in header]
    if missing:
        raise BadList(f"{path}, line 1: the header lacks {', '.join(missing)}; it has {', '.join(header)}.")
    if len(lines) == 1:
        raise BadList(f"{path} has a header and no rows.")
    for number, values in enumerate(csv.reader(lines[1:]), 2):
        if len(values) != len(header):
            raise BadList(f"{path}, line {number}: expected {len(header)} fields as in the header, got {len(values)}.")
        yield number, dict(zip(header, (value.strip() for value in values), strict=True))
