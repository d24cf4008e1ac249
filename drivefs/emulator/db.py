"""The emulator's tables. Reading the schema's comments is reading what the emulated Drive knows.

One connection, used on the event loop's thread only: statements are short, and code without ``await`` is atomic.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drivefs.emulator import scopes

__all__ = ["connect", "new_drive", "transaction"]

SCHEMA: Final = """
CREATE TABLE drive (                  -- exactly one row
  root_id TEXT NOT NULL,
  secret BLOB NOT NULL,               -- signs ids and page tokens; a reset makes a new one, which voids all of them
  first_change INTEGER NOT NULL,      -- change tokens below this belong to a Drive before a reset
  last_change INTEGER NOT NULL,
  usage INTEGER NOT NULL DEFAULT 0,   -- bytes; kept exact by the triggers below
  usage_trashed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE items (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  name_folded TEXT NOT NULL,          -- name.casefold(): equality on names ignores case
  mime_type TEXT NOT NULL,
  parent TEXT,                        -- an item has at most one; NULL for the root
  explicitly_trashed INTEGER NOT NULL DEFAULT 0,
  trashed INTEGER NOT NULL DEFAULT 0, -- explicitly, or through an ancestor
  created_ms INTEGER NOT NULL,
  modified_ms INTEGER NOT NULL,
  viewed_ms INTEGER,
  change INTEGER NOT NULL DEFAULT 0,  -- position in the changes feed, and the item's version
  change_ms INTEGER NOT NULL DEFAULT 0,
  head_revision TEXT,                 -- this and the next five: NULL for items without bytes
  size INTEGER,
  md5 TEXT,
  sha1 TEXT,
  sha256 TEXT,
  original_filename TEXT,
  quota_bytes INTEGER NOT NULL DEFAULT 0, -- head revision and those kept for ever
  starred INTEGER NOT NULL DEFAULT 0,
  shortcut_target TEXT,
  shortcut_mime_type TEXT,            -- of the target, when the shortcut was made
  app_properties TEXT NOT NULL DEFAULT '{}',
  properties TEXT NOT NULL DEFAULT '{}',
  extra TEXT NOT NULL DEFAULT '{}'    -- fields that are stored and returned, and mean nothing here
);
CREATE INDEX items_listing ON items(parent); -- without trashed, or it would be preferred to items_name for lookups
CREATE INDEX items_name ON items(name_folded, parent);
CREATE INDEX items_change ON items(change);
CREATE INDEX items_shortcut ON items(shortcut_target) WHERE shortcut_target IS NOT NULL;
CREATE TABLE tombstones (             -- ids that existed; they are never given out or accepted again
  id TEXT PRIMARY KEY,
  change INTEGER,                     -- NULL where the item went with its folder, which the feed does not tell
  change_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstones_change ON tombstones(change);
CREATE TABLE revisions (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  item TEXT NOT NULL,
  blob TEXT,                          -- file in the content folder; NULL where there are no bytes
  size INTEGER NOT NULL,
  md5 TEXT NOT NULL,
  sha1 TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  mime_type TEXT NOT NULL,
  original_filename TEXT NOT NULL,
  modified_ms INTEGER NOT NULL,
  keep INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX revisions_item ON revisions(item, seq);
CREATE INDEX revisions_blob ON revisions(blob);
CREATE TABLE sessions (               -- resumable uploads; how much was received is the length of uploads/<id>
  id TEXT PRIMARY KEY,
  item TEXT,                          -- the file to be updated; NULL for a create
  body TEXT NOT NULL,                 -- metadata as sent when the session was opened
  query TEXT NOT NULL,                -- parameters of that request, among them ``fields``
  content_type TEXT,
  total INTEGER,                      -- declared length; NULL = unknown
  created_ms INTEGER NOT NULL,
  finished_item TEXT                  -- set at commit, so that a lost answer can be asked for again
) WITHOUT ROWID;
CREATE TABLE tokens (                 -- access tokens issued by /token, and any that were revoked
  token TEXT PRIMARY KEY,
  expires_ms INTEGER NOT NULL,        -- 0 = revoked
  scopes TEXT NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER usage_insert AFTER INSERT ON items WHEN NEW.quota_bytes > 0 BEGIN
  UPDATE drive SET usage = usage + NEW.quota_bytes, usage_trashed = usage_trashed + NEW.trashed * NEW.quota_bytes;
END;
CREATE TRIGGER usage_delete AFTER DELETE ON items WHEN OLD.quota_bytes > 0 BEGIN
  UPDATE drive SET usage = usage - OLD.quota_bytes, usage_trashed = usage_trashed - OLD.trashed * OLD.quota_bytes;
END;
CREATE TRIGGER usage_update AFTER UPDATE OF quota_bytes, trashed ON items BEGIN
  UPDATE drive SET usage = usage + NEW.quota_bytes - OLD.quota_bytes,
    usage_trashed = usage_trashed + NEW.trashed * NEW.quota_bytes - OLD.trashed * OLD.quota_bytes;
END;
"""

# Each brings a database from the version before to the next; a new one gets SCHEMA (version 1) and then all of these.
MIGRATIONS: Final = (
    """
-- Several accounts. The account the server was started with is not in ``users``: items it owns have owner NULL.
CREATE TABLE users (
  id TEXT PRIMARY KEY,                -- what the API calls permissionId
  email TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  root_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE user_tokens (token TEXT PRIMARY KEY, user TEXT NOT NULL) WITHOUT ROWID; -- access tokens that stand for such a user
ALTER TABLE items ADD COLUMN owner TEXT;       -- users.id; NULL = the main account; '' = a shared drive, whose items nobody owns
ALTER TABLE items ADD COLUMN drive TEXT;       -- id of the shared drive it lies in
ALTER TABLE items ADD COLUMN modified_by TEXT; -- users.id of the last one to change it; NULL = the main account
ALTER TABLE items ADD COLUMN resource_key TEXT; -- to be sent by those who know the item only through its link
ALTER TABLE items ADD COLUMN restriction TEXT; -- JSON: the content restriction in force
CREATE INDEX items_owner ON items(owner) WHERE owner IS NOT NULL;
CREATE INDEX items_drive ON items(drive) WHERE drive IS NOT NULL;
CREATE TABLE permissions (            -- given directly on an item; ownership is items.owner and has no row here
  item TEXT NOT NULL,
  id TEXT NOT NULL,                   -- of the user, or anyoneWithLink
  role TEXT NOT NULL,
  type TEXT NOT NULL,                 -- user, anyone
  created_ms INTEGER NOT NULL,
  given_by TEXT NOT NULL,             -- users.id, or the main account's permission id
  PRIMARY KEY (item, id)
) WITHOUT ROWID;
CREATE INDEX permissions_user ON permissions(id, item);
CREATE TABLE losses (                 -- what an account's feed tells as removed though it exists: access was taken away
  user TEXT NOT NULL,                 -- permission id
  item TEXT NOT NULL,
  change INTEGER NOT NULL,
  change_ms INTEGER NOT NULL,
  PRIMARY KEY (user, item)
) WITHOUT ROWID;
CREATE TABLE drives (                 -- shared drives; each has an item of the same id and name, its root
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  request_id TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  hidden INTEGER NOT NULL DEFAULT 0
);
ALTER TABLE sessions ADD COLUMN asker TEXT NOT NULL DEFAULT '{}'; -- JSON: as whom the upload is committed
CREATE TABLE documents (item TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID; -- what Docs editors files say, for exports
DROP TRIGGER usage_insert;
DROP TRIGGER usage_delete;
DROP TRIGGER usage_update;
CREATE TRIGGER usage_insert AFTER INSERT ON items WHEN NEW.quota_bytes > 0 AND NEW.owner IS NULL BEGIN
  UPDATE drive SET usage = usage + NEW.quota_bytes, usage_trashed = usage_trashed + NEW.trashed * NEW.quota_bytes;
END;
CREATE TRIGGER usage_delete AFTER DELETE ON items WHEN OLD.quota_bytes > 0 AND OLD.owner IS NULL BEGIN
  UPDATE drive SET usage = usage - OLD.quota_bytes, usage_trashed = usage_trashed - OLD.trashed * OLD.quota_bytes;
END;
CREATE TRIGGER usage_update AFTER UPDATE OF quota_bytes, trashed, owner ON items BEGIN
  UPDATE drive SET usage = usage + (NEW.owner IS NULL) * NEW.quota_bytes - (OLD.owner IS NULL) * OLD.quota_bytes,
    usage_trashed = usage_trashed + (NEW.owner IS NULL) * NEW.trashed * NEW.quota_bytes
      - (OLD.owner IS NULL) * OLD.trashed * OLD.quota_bytes;
END;
""",
    """
-- Sign-ins: what stands behind a token, who may sign in, and what an app made.
ALTER TABLE tokens ADD COLUMN kind TEXT NOT NULL DEFAULT 'access'; -- access, refresh
ALTER TABLE tokens ADD COLUMN client TEXT NOT NULL DEFAULT '';     -- id of the app; '' where there is none
ALTER TABLE tokens ADD COLUMN sign_in TEXT;                        -- common to all tokens of one consent
CREATE INDEX tokens_sign_in ON tokens(sign_in) WHERE sign_in IS NOT NULL;
CREATE TABLE sign_in_steps (          -- sign-ins under way: pages shown, codes given out, devices that wait
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,                -- JSON
  expires_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE clients (                -- while there is none, any client id is good
  id TEXT PRIMARY KEY,
  secret TEXT NOT NULL,
  kind TEXT NOT NULL,                 -- installed, web
  redirects TEXT NOT NULL             -- JSON array; of web clients
) WITHOUT ROWID;
CREATE TABLE service_accounts (
  key_id TEXT PRIMARY KEY,
  email TEXT NOT NULL,
  public_key BLOB NOT NULL,           -- PEM
  token_uri TEXT NOT NULL             -- as in the key file: an audience that assertions may name
) WITHOUT ROWID;
CREATE INDEX service_accounts_email ON service_accounts(email);
-- The app that made an item or opened an upload, for scopes that confine apps to what they made. asking_app() is the one whose
-- request is under way; '' where a token stands for no app.
ALTER TABLE items ADD COLUMN app TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN app TEXT NOT NULL DEFAULT '';
CREATE INDEX items_of_app ON items(app) WHERE app <> '';
CREATE TABLE gone_of_apps (id TEXT PRIMARY KEY, app TEXT NOT NULL) WITHOUT ROWID; -- deleted items; their app hears of it
CREATE TRIGGER items_app AFTER INSERT ON items WHEN asking_app() <> '' BEGIN
  UPDATE items SET app = asking_app() WHERE seq = NEW.seq;
END;
CREATE TRIGGER items_gone AFTER DELETE ON items WHEN OLD.app <> '' BEGIN
  INSERT INTO gone_of_apps (id, app) VALUES (OLD.id, OLD.app);
END;
CREATE TRIGGER sessions_app AFTER INSERT ON sessions WHEN asking_app() <> '' BEGIN
  UPDATE sessions SET app = asking_app() WHERE id = NEW.id;
END;
CREATE TRIGGER sessions_made AFTER UPDATE OF finished_item ON sessions WHEN NEW.app <> '' AND NEW.item IS NULL BEGIN
  UPDATE items SET app = NEW.app WHERE id = NEW.finished_item; -- its last bytes came without a token
END;
""",
)


def connect(path: Path | None) -> sqlite3.Connection:
    """Open (and, when new, lay out) the database at ``path``, or one in memory."""
    if path is not None:  # made here, so that it is never readable by others; SQLite gives its side files the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path or ":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    if path is not None:
        connection.execute("PRAGMA journal_mode=WAL")
    # NORMAL: a killed process loses nothing; a power cut may lose the last commits, but never consistency.
    connection.executescript("PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-65536;")
    connection.create_function("asking_app", 0, lambda: scopes.current().client_id)
    _migrate(connection, path)
    return connection


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    steps = (SCHEMA, *MIGRATIONS)
    if version > len(steps):
        raise RuntimeError(f"{path} was written by a newer version of the emulator (schema {version}); use a new --data folder.")
    for number, step in enumerate(steps[version:], start=version + 1):
        connection.executescript(f"BEGIN; {step} PRAGMA user_version={number}; COMMIT;")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Must not be held across an ``await``."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def new_drive(connection: sqlite3.Connection, now_ms: int) -> None:
    """An empty Drive in place of whatever there was. Call within a transaction."""
    former = connection.execute("SELECT last_change FROM drive").fetchone()
    # A gap, so that no token of the former Drive can be mistaken for one of this.
    change = (former["last_change"] + 1000) if former else 100
    for table in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall():
        connection.execute(f"DELETE FROM {table['name']}")
    root_id = "0A" + secrets.token_urlsafe(12) + "PVA"
    connection.execute(
        "INSERT INTO drive (root_id, secret, first_change, last_change) VALUES (?, ?, ?, ?)",
        (root_id, secrets.token_bytes(32), change + 1, change),
    )
    connection.execute(
        "INSERT INTO items (id, name, name_folded, mime_type, created_ms, modified_ms)"
        " VALUES (?, 'My Drive', 'my drive', 'application/vnd.google-apps.folder', ?, ?)",
        (root_id, now_ms, now_ms),
    )
