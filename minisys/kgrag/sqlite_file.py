"""SQLite as a file format: our mark in the header, what is refused, transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minisys.core.checks import check

APPLICATION_ID = 0x4B473252  # "KG2R"
FORMAT = 1
_HEADER = b"SQLite format 3\0"
_WAIT = 30.0  # seconds that a writer waits for another


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file, ``"ro"``, ``"rw"`` or ``"rwc"``, and change nothing in it."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=_WAIT, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema")
        except sqlite3.OperationalError:
            connection.close()
            if mode != "ro" or Path(f"{path}-wal").exists():
                raise
            # In a folder that cannot be written, the log's files cannot be made; nobody else writes either.
            connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA query_only = {mode == 'ro'}")
        return connection
    except sqlite3.Error as error:
        what = f"path: got {path}, which SQLite cannot open ({error}), expected an index"
        raise ValueError(what) from error


def write_ahead(connection: sqlite3.Connection) -> None:
    """Let readers read while this connection writes. A crash of the machine costs the last batches."""
    with suppress(sqlite3.OperationalError):  # somebody reads just now: writing works, but they take turns
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def check_file(path: Path) -> None:
    """Refuse what is no SQLite file or is shorter than its header says."""
    with open(path, "rb") as stream:
        header = stream.read(100)
    check(header[:16] == _HEADER, "path", f"{path}, which is no SQLite file", "an index")
    log = Path(f"{path}-wal")
    if len(header) == 100 and log.exists() and log.stat().st_size:
        return  # a stopped writer: SQLite puts the file right from its log
    page = int.from_bytes(header[16:18]) if len(header) == 100 else 0
    page = 65536 if page == 1 else page
    expected, size = page * int.from_bytes(header[28:32]), path.stat().st_size
    check(
        len(header) == 100 and size >= expected,
        "path",
        f"{path} with {size:,} bytes, a truncated file",
        f"{expected:,} bytes; build the index again" if len(header) == 100 else "a whole index",
    )


def check_owner(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is SQLite's but no whole index of this format."""
    try:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        blank = is_blank(connection)
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        what = f"path: got {path}, a damaged file ({error}), expected an index; build it again"
        raise ValueError(what) from error
    check(not blank, "path", f"{path}, which holds nothing", "an index; the same build again makes it")
    check(owner == APPLICATION_ID, "path", f"{path}, a SQLite file of another program", "an index")
    check(version == FORMAT, "path", f"{path} of format {version}", f"format {FORMAT}; build the index again")
    check(damage == "ok", "path", f"{path}, a damaged file ({damage})", "an index; build it again")


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether a file is SQLite's, but nothing was written yet: its first writer was stopped."""
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    return owner == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator:
    """Run a block as one write transaction; yields the function that executes a statement in it.

    Raises ValueError, and changes nothing, where the file cannot be written: locked, read-only, disk full.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            what = f"path: got an index that cannot be written now ({error}), expected a free one"
            raise ValueError(what) from error
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one state, whatever a writer does meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def stamp(connection: sqlite3.Connection) -> None:
    """Mark the file as an index of this format."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def tidy(connection: sqlite3.Connection) -> None:
    """Fold the log into the file, and leave one file alone unless others have it open."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with suppress(sqlite3.OperationalError):  # others read or write: the log stays until they are done
        connection.execute("PRAGMA journal_mode = DELETE")
