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
from datasets.file_names import checked_name, read_regular

LARGEST = (1 << 63) - 1  # what an int64 holds


def read_lines(key: str, path: str | Path) -> list[str]:
    """Lines of a list file of data set `key`, without line ends and without blank lines at the end.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: empty, not UTF-8, with a blank line between others, or no regular file.
    """
    path = catalog.require(key, path)
    try:
        text = read_regular(path).decode("utf-8-sig")
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


def integer(path: str | Path, number: int, text: str, low: int = 0, high: int = LARGEST) -> int:
    """A decimal integer in low..high.

    Raises:
        BadList: anything else.
    """
    digits = text.removeprefix("-")
    # 19 digits write every int64; Python refuses thousands of them with an error of its own
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19) or int(text) < low:
        raise BadList(f"{path}, line {number}: expected an integer >= {low}, got {text[:120]!r}.")
    if int(text) > high:
        raise BadList(f"{path}, line {number}: expected an integer <= {high}, got {text}.")
    return int(text)


def file_name(path: str | Path, number: int, text: str) -> str:
    """The name of an image, relative to the folder of the data set.

    Raises:
        UnsafePath: it is no such name, see `datasets.file_names.checked_name`.
    """
    return checked_name(text, f"{path}, line {number}")


def read_csv(key: str, path: str | Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file with a header, as (line number, {column: value}); outer spaces are dropped.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: empty, a required column is missing or a column is there twice, a row has another number of fields than
            the header, a quotation does not end in its line.
    """
    lines = read_lines(key, path)
    header = _fields(path, 1, lines[0])
    missing = [name for name in required if name not in header]
    if missing:
        found = ", ".join(header)
        raise BadList(f"{path}, line 1: the header lacks {', '.join(missing)}; it has {found[:200]}.")
    if len(set(header)) != len(header):
        raise BadList(f"{path}, line 1: the header names a column twice: {', '.join(header)[:200]}.")
    if len(lines) == 1:
        raise BadList(f"{path} has a header and no rows.")
    for number, line in enumerate(lines[1:], 2):
        values = _fields(path, number, line)
        if len(values) != len(header):
            raise BadList(f"{path}, line {number}: expected {len(header)} fields as in the header, got {len(values)}.")
        yield number, dict(zip(header, values, strict=True))


def _fields(path: str | Path, number: int, line: str) -> list[str]:
    try:
        return [value.strip() for value in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise BadList(f"{path}, line {number}: no comma-separated line ({error}): {line[:120]!r}.") from error
