"""What a transaction that was undone leaves in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivefs.base.model import Kind
from drivefs.store.db import Database
from drivefs.store.tree import MY_DRIVE_INODE, Tree


def test_rows_read_inside_an_undone_transaction_are_forgotten(tmp_path: Path) -> None:
    """The write-through cache of hot rows never shows what the database took back."""
    with Database(tmp_path / "cache") as db:
        tree = Tree(db)
        tree.bind_account("p", "a@example.com", "root")
        node = tree.create(MY_DRIVE_INODE, "a", Kind.FILE, 0o600)
        with pytest.raises(RuntimeError), db.transaction():
            tree.update(node.inode, size=99)
            assert tree.get(node.inode).size == 99
            raise RuntimeError("undo")
        assert tree.get(node.inode).size == 0
