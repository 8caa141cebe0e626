"""Files that are either the old one or the new one, whenever the machine stops.

New content goes into a file of its own beside the target (``name.<random>.partial``), is flushed to the disk,
and takes the target's place in one step. Each writer has its own partial file, so that two at once give one
of the two contents, never a mixture. A killed writer leaves its partial file; `remove_partials` clears them.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from minisys.core.checks import check

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of a new file to be written; on a normal exit it replaces `path`, else it is removed.

    Makes missing parent folders. Raises ValueError where `path` is a folder or where the block wrote no file.
    """
    target = Path(path)
    check(not target.is_dir(), "path", f"the folder {target}", "a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        check(partial.is_file(), "path", f"no file {partial.name}", "the block to write it")
        sync(partial)
        os.replace(partial, target)
        sync(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no way to do it, and needs none
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: str | os.PathLike, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write `path` in one step: `content` is the bytes, or a function that writes them to an open file."""
    with atomic_path(path) as partial, open(partial, "wb") as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content)


def remove_partials(directory: str | os.PathLike, pattern: str) -> list[Path]:
    """Remove what killed writers of files named like `pattern` left in `directory`, and say what it was.

    Only for files that nobody is writing now.
    """
    left = sorted(Path(directory).glob(f"{pattern}.????????.partial"))
    for file in left:
        file.unlink()
    return left


@contextmanager
def only_writer(directory: str | os.PathLike) -> Iterator[None]:
    """Hold `directory` for one writer at a time; the system lets go of it however the process ends.

    Raises ValueError where another writer holds it. Without effect where the system has no such locks.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"directory: got {directory}, which another run uses, expected a free one"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON. Raises ValueError, and writes nothing, for what JSON lacks (NaN)."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"value: got something that is no JSON ({error}), expected numbers and the like"
        ) from error
    write_atomic(path, text.encode() + b"\n")


def read_json(path: str | os.PathLike) -> object:
    """Read JSON. Raises FileNotFoundError, or ValueError with file, line and column where it is none."""
    content = Path(path).read_bytes()
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: got no JSON at {where} ({error.msg}), expected a JSON file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: got bytes that are no UTF-8, expected a JSON file") from error
