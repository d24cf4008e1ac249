"""The database: its connection, its schema (the reference manual of our state), transactions, durability.

One connection, used from the trio thread only. Statements are small and synchronous, so code between two awaits is atomic
and needs no lock. Journal mode WAL with synchronous=NORMAL: a commit survives SIGKILL at once, and survives a power cut once
``commit_durably`` has run (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import CacheUnusable, DriveFSError, LocalDiskFull
from drivefs.store.files import sync_directory
from drivefs.store.reserve import Reserve

__all__ = ["Database", "Row"]

log = logging.getLogger(__name__)

Row = sqlite3.Row

SCHEMA_VERSION: Final = 2

# Stands for the boot id of a process that ended with everything on the disk.
_ENDED_WELL: Final = "ended well"
# Bytes; a database of this size is looked through in some 50 ms.
_QUICKLY_CHECKED: Final = 32 << 20

# Inodes up to this number are our own furniture (store/tree.py), never items on Drive.
LAST_VIRTUAL_INODE: Final = 16

SCHEMA: Final = f"""
-- account: permission id of the account this cache belongs to.  root_id: id of its My Drive.  change_token: where the changes
-- feed is to be read from next; every change before it has been applied.  boot: the kernel's boot id when this was last open;
-- another one means that what was not synced may have been lost.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- One row for each item that was ever shown. Three views of its metadata (store/views.py):
--   local_*   what the user sees,
--   synced_*  what user and server last agreed on, field by field,
--   remote_*  what the server has, as far as we were told.
-- A row whose local and remote views differ is pending: the uploader's work is a query, not a log.
CREATE TABLE node (
    inode           INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, so that a stale handle cannot meet another file
    kind            TEXT    NOT NULL,      -- base.model.Kind
    remote_id       TEXT    UNIQUE,        -- NULL until one is taken from the pool of generated ids, just before the create
    mime_type       TEXT    NOT NULL DEFAULT '',
    created_ms      INTEGER NOT NULL,
    can_edit        INTEGER NOT NULL DEFAULT 1,

    local_parent    INTEGER,               -- inode; NULL: not in the tree we show
    local_name      TEXT    NOT NULL,      -- the name as Drive has it or shall have it: any Unicode
    shown_name      TEXT    NOT NULL,      -- the name in the directory: legal, and unique among live siblings (store/names.py)
    local_mtime_ms  INTEGER NOT NULL,
    local_mode      INTEGER,               -- permission bits; NULL: the default of its kind
    local_trashed   INTEGER NOT NULL DEFAULT 0,
    deleted_ms      INTEGER,               -- when it was trashed, here or on Drive
    unlinked        INTEGER NOT NULL DEFAULT 0,  -- the user deleted it here: what is still written to it is nobody's

    synced_parent   INTEGER,
    synced_name     TEXT,
    synced_mtime_ms INTEGER,
    synced_mode     INTEGER,
    synced_trashed  INTEGER NOT NULL DEFAULT 0,

    remote_exists   INTEGER NOT NULL DEFAULT 0,  -- 0 with a remote_id: a create may be in flight under that id
    remote_parent   INTEGER,               -- inode; NULL: a folder we do not know
    remote_name     TEXT,
    remote_mtime_ms INTEGER,
    remote_mode     INTEGER,
    remote_trashed  INTEGER NOT NULL DEFAULT 0,
    remote_size     INTEGER,
    remote_md5      TEXT,
    remote_revision TEXT,
    remote_version  INTEGER NOT NULL DEFAULT 0,  -- orders views of the item: an older one is never applied

    mtime_ns        INTEGER NOT NULL,      -- what stat shows; local_mtime_ms is the part that Drive can keep
    size            INTEGER NOT NULL DEFAULT 0,  -- what stat shows; of a dirty file not open: its content file's size
    target          TEXT,                  -- of a symbolic link; NULL: not fetched yet
    shortcut_target TEXT,                  -- Drive id
    listed          INTEGER NOT NULL DEFAULT 0,  -- folders: all children are known and the changes feed keeps it so

    content         INTEGER,               -- content.id of what read() sees; NULL: nothing cached
    content_dirty   INTEGER NOT NULL DEFAULT 0,  -- content differs from remote; equals content.dirty of that row
    generation      INTEGER NOT NULL DEFAULT 0,  -- grows with the first write after each beginning of an upload
    session_uri     TEXT,                  -- resumable upload in progress (a secret)
    session_generation INTEGER,            -- the generation it carries; another one means it is void
    sent_md5        TEXT,                  -- of what the last upload carried: tells our own revision from a stranger's
    sent            TEXT NOT NULL DEFAULT '',  -- fields of View (comma between) sent in a call whose answer we do not have: the
                                           -- user's values stand whatever Drive states, and the row stays pending
    sequence        INTEGER NOT NULL DEFAULT 0,  -- order of local changes: deletions wait for what was changed before them

    pending INTEGER GENERATED ALWAYS AS (
        inode > {LAST_VIRTUAL_INODE} AND CASE
            -- With an id but not known to exist: a create whose answer was lost may have made it.
            WHEN NOT remote_exists THEN NOT local_trashed OR remote_id IS NOT NULL
            WHEN local_trashed THEN NOT remote_trashed
            ELSE content_dirty OR remote_trashed OR sent != ''
                 OR local_parent IS NOT remote_parent OR local_name IS NOT remote_name
                 OR local_mtime_ms IS NOT remote_mtime_ms OR local_mode IS NOT remote_mode
        END) VIRTUAL
);
CREATE UNIQUE INDEX node_child ON node (local_parent, shown_name) WHERE NOT local_trashed;
CREATE INDEX node_remote_parent ON node (remote_parent);
CREATE INDEX node_pending ON node (local_trashed, sequence) WHERE pending;

-- One row for each content file (store/cache.py): clean/XX/ID or dirty/XX/ID. Bytes below base_size that no extent covers are
-- holes, to be filled from ``revision`` of the item ``remote_id``, whatever item the inode has become since; bytes at and beyond
-- base_size are local. So base_size = 0 says: all local.
CREATE TABLE content (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    inode     INTEGER NOT NULL,
    remote_id TEXT,                        -- NULL, like revision: the item had no content on Drive when this began
    revision  TEXT,
    md5       TEXT,                        -- of the revision
    remote_size INTEGER NOT NULL DEFAULT 0,  -- of the revision; base_size is less once the user has cut the file
    base_size INTEGER NOT NULL,
    dirty     INTEGER NOT NULL,            -- 1: holds bytes that exist nowhere else; never deleted, never evicted
    used_ms   INTEGER NOT NULL,            -- last opened, for eviction
    -- Of dirty content only, for the day after a power cut (store/aftermath.py):
    settled   INTEGER NOT NULL DEFAULT 0,  -- 1: just these bytes are on the disk, each block with its checksum
    synced    TEXT,                        -- JSON [size, [[start, end], ...]]: what the last settling or fsync put on the disk
    replaces  INTEGER                      -- content.id of unsent content whose place this took: kept until this is synced
);
CREATE INDEX content_inode ON content (inode);
CREATE INDEX content_replaces ON content (replaces) WHERE replaces IS NOT NULL;

-- CRC-32 of blocks (store/content.py) whose bytes have not changed since it was taken. own: holds bytes of the user's that Drive
-- does not have.
CREATE TABLE block (content INTEGER NOT NULL, number INTEGER NOT NULL, crc INTEGER NOT NULL, own INTEGER NOT NULL,
                    PRIMARY KEY (content, number)) WITHOUT ROWID;
CREATE TABLE extent (content INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
                     PRIMARY KEY (content, start)) WITHOUT ROWID;

INSERT INTO sqlite_sequence (name, seq) VALUES ('node', {LAST_VIRTUAL_INODE});
"""

# How the tables of an older cache become those above: statements by the version they start from.
MIGRATIONS: Final = {
    1: """
ALTER TABLE content ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE content ADD COLUMN synced TEXT;
ALTER TABLE content ADD COLUMN replaces INTEGER;
CREATE INDEX content_replaces ON content (replaces) WHERE replaces IS NOT NULL;
CREATE TABLE block (content INTEGER NOT NULL, number INTEGER NOT NULL, crc INTEGER NOT NULL, own INTEGER NOT NULL,
                    PRIMARY KEY (content, number)) WITHOUT ROWID;
"""
}


def _prepare_directory(path: Path) -> None:
    """Make ``path`` ours alone (0700), refusing what somebody else may have put there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise CacheUnusable(
            f"The cache directory {path} cannot be made ({error.strerror}). Choose another with --cache-dir."
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise CacheUnusable(
            f"The cache directory {path} must be a directory of your own, not a link or another user's. "
            "Choose another with --cache-dir."
        )
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


def _lock(path: Path) -> int:
    """Hold the directory for this process; the descriptor holds the lock until it is closed."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode().strip() or "unknown"
        os.close(fd)
        raise CacheUnusable(
            f"The cache directory {path} is in use by another drivefs daemon (pid {pid}). "
            "Unmount that one first, or choose another with --cache-dir."
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _is_damage(error: sqlite3.Error) -> bool:
    return "malformed" in str(error) or "not a database" in str(error)


def _boot_id() -> str:
    """Another one after each start of the machine. DRIVEFS_BOOT_ID stands in for it in tests. Source: random(4)."""
    return os.environ.get("DRIVEFS_BOOT_ID") or Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def translate(error: sqlite3.Error, path: Path) -> DriveFSError:
    """The sentence for a failure of SQLite."""
    if "disk is full" in str(error):
        return LocalDiskFull(f"The file system that holds {path} is full. Free some space there; nothing was lost.")
    return CacheUnusable(
        f"The state in {path} cannot be used ({error}). It was left as it is; unsent files lie under {path / 'dirty'}. "
        "Choose another directory with --cache-dir to go on."
    )


class Database:
    """The open database of one cache directory. Use as a context manager; closing it releases the directory."""

    def __init__(self, cache_dir: Path) -> None:
        _prepare_directory(cache_dir)
        self.cache_dir = cache_dir
        self._path = cache_dir / "state.db"
        # Made when SQLite finds damage while we run, so that the next start looks at everything.
        self._doubt = cache_dir / "state.db-doubted"
        self._lock_fd = _lock(cache_dir)
        # Where the former database went that could not be used; None as a rule.
        self.damaged: Path | None = None
        # Whether nothing was known here before.
        self.fresh = False
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            os.close(self._lock_fd)
            raise translate(error, cache_dir) from error
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.reserve = Reserve(cache_dir)
        self._depth = 0
        # Called after a transaction was undone, for those who keep rows in memory.
        self.on_rollback: list[Callable[[], None]] = []
        # SQLite keeps the WAL while a connection is open; a descriptor of our own lets us sync it from a thread.
        self._wal_fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        # Whether the machine went down while this was open, so that what was not synced may be gone or half there.
        self.power_lost = self._note_boot()
        self._rolled_back = False

    def _note_boot(self) -> bool:
        now, before = _boot_id(), self.get_meta("boot")
        lost = before not in (None, _ENDED_WELL, now)
        if not lost:
            self.set_meta("boot", now)
        self.commit_durably()
        sync_directory(self.cache_dir)  # SQLite may just have made the journal
        return lost

    def rolled_back(self) -> None:
        """What was not synced before the power failed is dealt with; until this is said, each start has to do it anew."""
        self.set_meta("boot", _boot_id())
        self._rolled_back = True

    def _open(self) -> sqlite3.Connection:
        """The database as it is, or a new one beside the remains of one that cannot be used."""
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self.damaged = self._put_aside(error)
        return self._connect()

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise sqlite3.DatabaseError where the file contradicts itself. Of a large one only when there is reason to doubt it."""
        doubted = self._doubt.exists()
        if doubted or os.stat(self._path).st_size <= _QUICKLY_CHECKED:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")
        if doubted:
            self._doubt.unlink()

    def _put_aside(self, error: sqlite3.Error) -> Path:
        place = self.cache_dir / "damaged" / str(time.time_ns())
        place.mkdir(mode=0o700, parents=True)
        for suffix in ("", "-wal", "-shm"):
            path = Path(f"{self._path}{suffix}")
            if path.exists():
                path.rename(place / path.name)
        self._doubt.unlink(missing_ok=True)
        log.error("the database of the cache cannot be used (%s); it is kept in %s, and a new one is made", error, place)
        return place

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384;")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise CacheUnusable(
                f"The state in {self.cache_dir} was written by a newer drivefs (format {version}, this one reads "
                f"{SCHEMA_VERSION}). Update drivefs, or choose another directory with --cache-dir."
            )
        self.fresh = version == 0
        if self.fresh:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version < SCHEMA_VERSION:
            steps = " ".join(MIGRATIONS[old] for old in range(version, SCHEMA_VERSION))
            connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        self._check(connection)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_rest: object) -> None:
        try:
            if failure is None:
                self._note_end()
        finally:
            self._close()

    def _note_end(self) -> None:
        """Where everything is on the disk, the next boot need not distrust anything."""
        if self.execute("SELECT 1 FROM content WHERE dirty AND NOT settled LIMIT 1").fetchone():
            return
        if self.power_lost and not self._rolled_back:
            return
        try:
            self.set_meta("boot", _ENDED_WELL)
            self.commit_durably()
        except LocalDiskFull as error:  # then it distrusts, which costs time only
            log.info("%s", error)

    def _close(self) -> None:
        os.close(self._wal_fd)
        self._connection.close()
        os.close(self._lock_fd)

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement; outside ``transaction`` it commits by itself."""
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> DriveFSError:
        """The sentence for it. Where somebody else filled the disk, the next attempt finds the reserve's room."""
        translated = translate(error, self.cache_dir)
        if isinstance(translated, LocalDiskFull):
            self.reserve.release()
        elif _is_damage(error):
            self._doubt.touch(mode=0o600)
        return translated

    def insert(self, table: str, values: dict[str, Any]) -> int:
        """Insert one row and return its rowid. Column names come from our own code only."""
        marks = ", ".join("?" * len(values))
        cursor = self.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        return int(cursor.lastrowid or 0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. May be nested; only the outermost commits. Never await inside."""
        if self._depth:
            yield
            return
        self.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
        except BaseException:
            self._rollback()
            raise
        else:
            crash_point("before-commit")
            self._commit()
            crash_point("after-commit")
        finally:
            self._depth = 0

    def _commit(self) -> None:
        try:
            self._connection.commit()
        except sqlite3.Error as error:
            self._rollback()
            raise self._failed(error) from error

    def _rollback(self) -> None:
        self._connection.rollback()
        for forget in self.on_rollback:
            forget()

    def commit_durably(self) -> None:
        """Make every commit so far survive a power cut. Blocks; safe to call from any thread."""
        try:
            os.fdatasync(self._wal_fd)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise LocalDiskFull(f"The file system that holds {self.cache_dir} is full. Free some space there.") from error
            raise

    def get_meta(self, key: str) -> str | None:
        row = self.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        self.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))
