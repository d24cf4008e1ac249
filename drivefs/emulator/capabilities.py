"""The capabilities of an item: what its account may do with it, told beforehand so that clients need not try."""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import NamedTuple

from drivefs.emulator import access
from drivefs.emulator.access import COMMENTER, FILE_ORGANIZER, ORGANIZER, OWNER, WRITER, View
from drivefs.emulator.fields import Mask
from drivefs.emulator.values import FOLDER, is_google_type

__all__ = ["capabilities"]


class _Case(NamedTuple):
    """All that capabilities depend on. There are few, so each is computed once."""

    root: bool
    folder: bool
    blob: bool
    trashed: bool
    role: int
    in_drive: bool
    locked: bool
    writers_only: bool  # copyRequiresWriterPermission
    owner_shares: bool  # not writersCanShare

    @property
    def owns(self) -> bool:
        return self.role == OWNER and not self.in_drive

    def at_least(self, in_my_drive: int, in_drive: int) -> bool:
        return self.role >= (in_drive if self.in_drive else in_my_drive)


def _content(case: _Case) -> dict[str, bool]:
    item, writes = not case.root, case.role >= WRITER
    reads = not case.folder and (writes or not case.writers_only)
    return {
        "canComment": item and case.role >= COMMENTER,
        "canCopy": reads,
        "canDownload": reads,
        "canEdit": writes,
        "canModifyContent": writes and not case.locked,
        "canModifyContentRestriction": writes and case.blob,
        "canModifyEditorContentRestriction": writes and case.blob,
        "canModifyOwnerContentRestriction": case.owns and case.blob,
        "canRemoveContentRestriction": writes and case.locked,
        "canModifyLabels": False,
        "canReadLabels": False,
        "canReadRevisions": not case.folder and writes,
        "canRename": item and writes and not case.locked,
    }


def _place(case: _Case) -> dict[str, bool]:
    item, folder, writes = not case.root, case.folder, case.role >= WRITER
    moves, discards = case.at_least(OWNER, FILE_ORGANIZER), case.at_least(OWNER, FILE_ORGANIZER)
    return {
        "canAddChildren": folder and writes,
        "canAddFolderFromAnotherDrive": False,
        "canAddMyDriveParent": False,
        "canDelete": item and case.at_least(OWNER, ORGANIZER),
        "canDeleteChildren": folder and case.in_drive and case.role >= ORGANIZER,
        "canListChildren": folder,
        "canMoveChildrenOutOfDrive": folder and case.at_least(OWNER, ORGANIZER),
        "canMoveChildrenWithinDrive": folder and case.at_least(WRITER, FILE_ORGANIZER),
        "canMoveItemIntoTeamDrive": item and case.owns,
        "canMoveItemOutOfDrive": item and case.at_least(OWNER, ORGANIZER),
        "canMoveItemWithinDrive": item and moves,
        "canRemoveChildren": folder and case.at_least(WRITER, FILE_ORGANIZER),
        "canRemoveMyDriveParent": item and case.owns,
        "canTrash": item and discards,
        "canTrashChildren": folder and case.in_drive and case.role >= FILE_ORGANIZER,
        "canUntrash": item and case.trashed and discards,
    }


def _sharing(case: _Case) -> dict[str, bool]:
    item = not case.root
    return {
        "canAcceptOwnership": False,
        "canChangeCopyRequiresWriterPermission": item and case.at_least(OWNER, ORGANIZER),
        "canChangeViewersCanCopyContent": item and case.at_least(OWNER, ORGANIZER),
        "canShare": (item or case.in_drive) and case.at_least(OWNER if case.owner_shares else WRITER, ORGANIZER),
    }


@lru_cache(maxsize=1024)
def _told(case: _Case, wanted: tuple[str, ...]) -> dict[str, bool]:
    everything = _content(case) | _place(case) | _sharing(case)
    return {name: everything[name] for name in sorted(everything) if not wanted or name in wanted or "*" in wanted}


def capabilities(row: sqlite3.Row, view: View, mask: Mask) -> dict[str, bool]:
    """Those that the mask wants. The answer is shared: it must not be changed."""
    mime_type = row["mime_type"]
    case = _Case(
        view.store.is_root(row),
        mime_type == FOLDER,
        not is_google_type(mime_type),
        bool(row["explicitly_trashed"]),
        view.role(row),
        row["drive"] is not None,
        access.locked(row),
        '"copyRequiresWriterPermission": true' in row["extra"],
        '"writersCanShare": false' in row["extra"],
    )
    return _told(case, tuple(mask))
