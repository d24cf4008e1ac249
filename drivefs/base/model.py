"""Values that more than one room speaks of. All frozen: they are passed between tasks and kept in tables.

Times are integers: ``*_ms`` are milliseconds since the epoch, which is the resolution Drive keeps; ``*_ns`` are nanoseconds.
Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

__all__ = [
    "FOLDER_MIME",
    "SHORTCUT_MIME",
    "SYMLINK_MIME",
    "Account",
    "Change",
    "ChangePage",
    "Invalidation",
    "ItemPatch",
    "Kind",
    "Listing",
    "NewItem",
    "RemoteItem",
    "Revision",
    "StorageQuota",
    "UploadSession",
]

FOLDER_MIME: Final = "application/vnd.google-apps.folder"
SHORTCUT_MIME: Final = "application/vnd.google-apps.shortcut"
# The freedesktop name of a symbolic link; Drive keeps it as an ordinary blob whose bytes are the link's target.
SYMLINK_MIME: Final = "inode/symlink"


class Kind(str, Enum):
    """What a node is to POSIX and to Drive. DOCUMENT: a Google Docs editors file, which has no bytes of its own."""

    FOLDER = "folder"
    FILE = "file"
    SYMLINK = "symlink"
    DOCUMENT = "document"
    SHORTCUT = "shortcut"


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One Drive item as the server states it (files resource of Drive v3).

    size, md5 and revision (headRevisionId) are None for items without bytes: folders, shortcuts, Docs editors files.
    version grows with every server-side change and only orders two views of one item; equality of content is md5.
    Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/files
    """

    id: str
    name: str
    mime_type: str
    parents: tuple[str, ...]
    version: int
    created_ms: int
    modified_ms: int
    size: int | None = None
    md5: str | None = None
    revision: str | None = None
    trashed: bool = False
    owned_by_me: bool = True
    can_edit: bool = True
    app_properties: Mapping[str, str] = field(default_factory=dict)
    shortcut_target: str | None = None

    @property
    def kind(self) -> Kind:
        if self.mime_type == FOLDER_MIME:
            return Kind.FOLDER
        if self.mime_type == SHORTCUT_MIME:
            return Kind.SHORTCUT
        if self.mime_type.startswith("application/vnd.google-apps."):
            return Kind.DOCUMENT
        return Kind.SYMLINK if self.mime_type == SYMLINK_MIME else Kind.FILE


@dataclass(frozen=True, slots=True)
class Revision:
    """One content that a file has or had. size in bytes.

    Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/revisions
    """

    id: str
    md5: str | None
    size: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class NewItem:
    """Metadata of an item to be created, under an id from files.generateIds so that repeating the call is safe."""

    id: str
    name: str
    parent: str
    mime_type: str
    modified_ms: int
    app_properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemPatch:
    """What to change of an existing item; None leaves a field alone. In app_properties a None value removes the key.

    add_parent replaces the old parent (an item has one); remove_parent is sent along, as the API asks.
    """

    name: str | None = None
    modified_ms: int | None = None
    app_properties: Mapping[str, str | None] | None = None
    trashed: bool | None = None
    add_parent: str | None = None
    remove_parent: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a folder's children; next_page_token is None on the last. A page may be empty and not the last."""

    items: tuple[RemoteItem, ...]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the changes feed. item is None where the file was deleted for good or access to it was lost."""

    file_id: str
    item: RemoteItem | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """One page of the changes feed; next_token is what to ask next time, finished whether the feed is drained."""

    changes: tuple[Change, ...]
    next_token: str
    finished: bool


@dataclass(frozen=True, slots=True)
class StorageQuota:
    """limit is None where the account has none (pooled or unlimited storage)."""

    limit: int | None
    usage: int


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are signed in as, and where their My Drive begins."""

    email: str
    permission_id: str
    root_id: str


@dataclass(frozen=True, slots=True)
class UploadSession:
    """A resumable upload in progress. uri is itself a bearer secret: never log it. offset: bytes the server has confirmed."""

    uri: str = field(repr=False)
    offset: int


@dataclass(frozen=True, slots=True)
class Invalidation:
    """Kernel knowledge that became stale: the entry (inode of the folder, name), or, where name is None, the inode itself.

    pages tells whether cached file content is stale too, or only the attributes.
    """

    inode: int
    name: str | None = None
    pages: bool = False
