"""Manifests: a file `SHA256SUMS` in a folder says which bytes its files have, and whoever reads them compares.

The format is that of `sha256sum`: `cd <folder>; sha256sum -c SHA256SUMS` checks a folder without this suite. The last line, a
comment to `sha256sum`, holds the SHA-256 of the lines before it, so that a manifest that lost or changed a line is noticed
as well. Names are relative to the folder and may begin with `../` or `../../`. A manifest may come from a stranger: it leads
to no other place, and not through symbolic links.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.files import DamagedFileError, sha256_of, write_atomically

MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_PART = r"(?!\.\.?(?:/|$))[^/\\\x00-\x1f\x7f]+"
_LONGEST = 1000  # characters of a name
_NAME = re.compile(rf"(?:\.\./){{0,2}}{_PART}(?:/{_PART})*")


def write_manifest(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, str]:
    """Hash files and write `<folder>/SHA256SUMS` atomically.

    Args:
        folder: where the manifest goes and what the names are relative to.
        names: files; `"../demo.json"` is one beside the folder. Their order does not matter.

    Returns:
        name -> SHA-256 (64 hex digits), as :func:`read_manifest` does.

    Raises:
        ValueError: a name is absolute, leaves the folder by more than two levels, or leads through a symbolic link.
        FileNotFoundError: there is no such file.
        StorageError: the file system refused.
    """
    manifest: dict[str, str] = {}
    for name in sorted(set(names)):
        path, problem = _locate(Path(folder), name)
        if problem:
            raise ValueError(f"{name!r} cannot be listed in {str(folder)!r}: {problem}")
        manifest[name] = sha256_of(path)
    write_atomically(Path(folder) / MANIFEST, _render(manifest))
    return manifest


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, str]:
    """What `<folder>/SHA256SUMS` says: name -> SHA-256 (64 hex digits). The files themselves are not read.

    Raises:
        DamagedFileError: there is none, or it is not as :func:`write_manifest` wrote it, or it names a file elsewhere.
    """
    path = Path(folder) / MANIFEST
    try:
        raw = _read(path)
        lines = raw.decode().split("\n")
    except (DamagedFileError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} cannot be read ({error}): {_REPEAT}") from error
    matches = [_LINE.fullmatch(line) for line in lines]
    manifest = {match[2]: match[1] for match in matches if match}
    if raw != _render(manifest):
        raise DamagedFileError(f"{path} is not as it was written, so that nothing in its folder is known: {_REPEAT}")
    strangers = [name for name in manifest if len(name) > _LONGEST or not _NAME.fullmatch(name)]
    if strangers:
        raise DamagedFileError(f"{path} names {strangers[0][:100]!r}, which no manifest may: do not use this folder")
    return manifest


def read_verified(folder: str | os.PathLike[str], name: str, manifest: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a file, read once and compared with the manifest of its folder.

    Args:
        folder: holds the manifest.
        name: the file, as the manifest calls it.
        manifest: what :func:`read_manifest` returned for this folder; None reads it.

    Raises:
        DamagedFileError: the manifest is damaged or does not list the file, or the file is missing or not as listed.
        OSError: the file is there and cannot be read.
    """
    listed = read_manifest(folder) if manifest is None else manifest
    if name not in listed:
        raise DamagedFileError(f"{Path(folder) / MANIFEST} does not list {name!r}, so that it is not used: {_REPEAT}")
    path, problem = _locate(Path(folder), name)
    if problem:
        raise DamagedFileError(f"{path} {problem}: {_REPEAT}")
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != listed[name]:
        raise DamagedFileError(f"{path} ({len(data):,} bytes) is {_ALTERED}: {_REPEAT}")
    return data


def damaged_files(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Every file of a manifest that is not as it was written: name -> what is wrong; empty when all is well.

    Every byte is read. A manifest that is missing or damaged is itself the only entry.
    """
    try:
        manifest = read_manifest(folder)
    except DamagedFileError as error:
        return {MANIFEST: str(error)}
    return {name: reason for name, listed in manifest.items() if (reason := damage(folder, name, listed))}


def damage(folder: str | os.PathLike[str], name: str, sha256: str) -> str:
    """What is wrong with one file that should have this SHA-256; empty when nothing is. The file is read in blocks."""
    path, problem = _locate(Path(folder), name)
    try:
        return problem or _irregular(path) or ("" if sha256_of(path) == sha256 else f"is {_ALTERED}")
    except OSError as error:
        return f"cannot be read ({error.strerror})"


_ALTERED = "not as it was written: cut off or altered"
_REPEAT = "restore it or run again the command that made it"


def _render(manifest: Mapping[str, str]) -> bytes:
    body = "".join(f"{manifest[name]}  {name}\n" for name in sorted(manifest)).encode()
    return body + f"# {hashlib.sha256(body).hexdigest()} of the lines above\n".encode()


def _locate(folder: Path, name: str) -> tuple[Path, str]:
    """The path of a name, and why it may not be read, if so."""
    path = Path(os.path.abspath(folder))
    if not _NAME.fullmatch(name):
        return path / MANIFEST, f"names {name!r}, which leads out of its folder"
    for part in name.split("/"):
        path = path.parent if part == ".." else path / part
        try:
            if part != ".." and path.is_symlink():
                return path, "is a symbolic link, which is not followed"
        except OSError as error:  # a name that is too long
            return path, f"cannot be looked at ({error.strerror})"
    return path, ""


def _irregular(path: Path) -> str:
    try:
        return "" if stat.S_ISREG(path.lstat().st_mode) else "is no ordinary file"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:  # a name that is too long
        return f"cannot be read ({error.strerror})"


def _read(path: Path) -> bytes:
    """The bytes of an ordinary file (a pipe or a device would block or never end)."""
    if problem := _irregular(path):
        raise DamagedFileError(f"{path} {problem}: {_REPEAT}")
    return path.read_bytes()
