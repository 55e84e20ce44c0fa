"""Names of files that come out of lists, and the files behind them.

A list, a csv or an archive of a stranger may name any file. A name that is used here stays below the folder that its
list speaks of, by itself and after every link, and what is opened there is a regular file: a device never ends, and a
named pipe waits for ever.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from datasets.errors import UnsafePath

LONGEST_PART = 255  # bytes; what file systems allow for one name
LONGEST_NAME = 1024  # bytes; the longest path of a published data set has about 100
PROBLEMS = {
    errno.ELOOP: "is a link that leads in a circle; put the file itself there",
    errno.ENAMETOOLONG: "is a longer name than this file system allows",
}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")


def checked_name(name: str, where: str) -> str:
    """`name`, which is a path relative to a folder and does not leave it.

    Raises:
        UnsafePath: empty, absolute, with `..`, with a control character, or too long; the message begins with `where`.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip("./\\ "):
        problem = "names no file"
    elif ABSOLUTE.match(name):
        problem = "is an absolute path"
    elif ".." in parts:
        problem = "leads out of its folder"
    elif CONTROL.search(name):
        problem = "holds a control character"
    elif (
        any(len(os.fsencode(part)) > LONGEST_PART for part in name.split("/")) or len(os.fsencode(name)) > LONGEST_NAME
    ):
        problem = "is longer than any file name"
    else:
        return name
    raise UnsafePath(f"{where}: {name[:120]!r} {problem}. Expected a path below the folder of the list.")


def inside(folder: str | Path, name: str) -> Path:
    """`folder/name`; links on the way may lead anywhere in the folder, not out of it. The folder itself may be a link.

    Raises:
        UnsafePath: see `checked_name`, or a link that leads out of the folder.
    """
    path = Path(folder) / checked_name(name, str(folder))
    real, base = os.path.realpath(path), os.path.realpath(folder)
    if not real.startswith(base.rstrip(os.sep) + os.sep):
        raise UnsafePath(
            f"{path} leads to {real}, outside its data set. Copy the file there, or make the whole folder the link."
        )
    return path


def require_regular(path: str | Path) -> None:
    """Nothing, if `path` is a file.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePath: a folder, a device, a pipe, links that lead in a circle, or a name that is too long.
    """
    try:
        mode = os.stat(path).st_mode
    except NotADirectoryError as error:
        raise FileNotFoundError(f"{path} does not exist: a part of it is a file, not a folder.") from error
    except OSError as error:
        if error.errno not in PROBLEMS:
            raise
        raise UnsafePath(f"{path} {PROBLEMS[error.errno]}.") from error
    if not stat.S_ISREG(mode):
        raise UnsafePath(f"{path} is a folder, a device or a pipe, expected a file.")


def read_regular(path: str | Path) -> bytes:
    """Content of a regular file.

    Raises:
        FileNotFoundError, UnsafePath: see `require_regular`.
    """
    require_regular(path)
    return Path(path).read_bytes()


def read_inside(folder: str | Path, name: str) -> bytes:
    """Content of the regular file `folder/name`.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePath: see `inside` and `require_regular`.
    """
    return read_regular(inside(folder, name))
