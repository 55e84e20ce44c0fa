"""What can be wrong with a data set on disk, as errors that name the file and say what was expected.

All of them are built from one message, so that they survive the way out of a loader's worker process.
"""

from __future__ import annotations


class DatasetNotFound(FileNotFoundError):
    """A data set, or a file of it, is not under the root. The message says who gives it out and the expected tree."""


class BadList(ValueError):
    """A list file (pairs, people, labels, csv) does not have its official form. The message names file and line."""


class UnsafePath(BadList):
    """A name in a list, or a link, leads out of its data set or to no regular file. It was not opened."""


class CorruptImage(ValueError):
    """An image cannot be decoded or has another size than its data set promises. The message names the file."""


class CorruptRecord(ValueError):
    """A record of a RecordIO file is damaged or truncated. The message names file, key and byte offset."""


class UnsafePickle(ValueError):
    """A pickled file asks for something that a data set has no need of. It was refused before anything was called."""
