"""Where the parts of archives are put on this machine, and what happens where two of them have one path.

Everything is written below roots, relative to open directories, and never through a symbolic link: each directory on the way is
opened with O_NOFOLLOW, each file is made with O_EXCL, and links are made when all files are there. Modes are 0644 or 0755, and in
declared directories what the owner had.

Invariants: of two parts with one path, the one that was installed later has it, whichever came first; what was there before is
not changed. Threads: several archives land at once, each with a ``Writer`` of its own.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

from drivefs_agent.packages.errors import Hostile, LayerUnusable, StoreDamaged
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.schemes import OURS

__all__ = ["Landing", "Site", "Writer", "layer_schemes"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ASIDE: Final = f"{OURS}aside"


def layer_schemes(site: str) -> dict[str, str]:
    """For a virtual environment. ``site``: its site-packages, relative to its root."""
    return {"purelib": f"{site}/", "scripts": "bin/", "data": ""}


@dataclass(frozen=True, slots=True)
class _Root:
    number: int
    path: Path
    fd: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where a part goes. schemes: of each kind of scheme path, what stands in its place.  python: for scripts."""

    part: Part
    root: _Root
    schemes: Mapping[str, str]
    python: str

    def path(self, scheme: str) -> str:
        """Relative to the root."""
        kind, _, below = scheme.partition("/")
        prefix = self.schemes.get(kind)
        path = f"{prefix}{below}"
        if prefix is None or not below or path.startswith(OURS):
            raise Hostile(f"The archive of {self.part.name} names a file {scheme[:100]!r}, which no package can have.")
        return path

    def mode(self, mode: int) -> int:
        if self.part.kind == Kind.DIRECTORY:
            return mode & 0o755 | 0o600
        return 0o755 if mode & 0o100 else 0o644


class Landing:
    """Which parts are expected, and where they go. Also remembers what has come where."""

    def __init__(self) -> None:
        self._sites: dict[str, Site | None] = {}
        self._roots: dict[Path, _Root] = {}
        self._owners: dict[tuple[int, str], Part] = {}
        self._aside: list[tuple[Part, _Root, str, str]] = []
        self._links: list[tuple[Site, str, str]] = []
        self._numbers = count()
        self._lock = threading.Lock()
        self.masked = _umask()

    def __enter__(self) -> Landing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for root in self._roots.values():
            os.close(root.fd)
        self._roots.clear()

    def put(self, part: Part, root: Path, schemes: Mapping[str, str], python: str = "") -> None:
        """Expect ``part``, and put its files below the directory ``root``. python: what its scripts are to name."""
        self._expect(part, Site(part, self._root(root), schemes, python))

    def skip(self, part: Part) -> None:
        """``part`` may come, because it shares an archive with others, and is not wanted."""
        self._expect(part, None)

    def occupy(self, part: Part, root: Path, path: str) -> None:
        """``path``, relative to ``root``, is there already and belongs to ``part``."""
        self._owners[self._root(root).number, path] = part

    def _expect(self, part: Part, site: Site | None) -> None:
        if part.folder in self._sites:
            raise StoreDamaged(f"Two packages would have the folder {part.folder} in an archive.")
        self._sites[part.folder] = site

    def _root(self, path: Path) -> _Root:
        if path not in self._roots:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._roots[path] = _Root(len(self._roots), path, fd)
        return self._roots[path]

    def sites(self) -> list[Site]:
        return [site for site in self._sites.values() if site is not None]

    def site(self, folder: str) -> Site | None:
        """Where the part with this folder goes; None where it is not wanted. Hostile where nobody expects it."""
        try:
            return self._sites[folder]
        except KeyError:
            raise Hostile(f"The archive holds {folder[:100]!r}, which nothing says that it has.") from None

    # -- who has a path ------------------------------------------------------------------------------------------------

    def claim(self, site: Site, path: str) -> str | None:
        """Where to write what ``site`` has at ``path``: there, or aside; None where another part keeps the path."""
        owner = self._owners.setdefault((site.root.number, path), site.part)
        if owner is site.part:
            return path
        if _rank(owner) > _rank(site.part):
            return None
        with self._lock:
            name = f"{_ASIDE}/{next(self._numbers)}"
            self._aside.append((site.part, site.root, name, path))
        return name

    def claim_alone(self, site: Site, path: str) -> None:
        """As ``claim``, for what no two parts can have."""
        if self._owners.setdefault((site.root.number, path), site.part) is not site.part:
            raise Hostile(f"Two packages have the file {path[:100]!r}.")

    def add_link(self, site: Site, path: str, target: str) -> None:
        """A link is made when all files are there. ``target``: leads nowhere but down from where its dots have led it."""
        self.claim_alone(site, path)
        with self._lock:
            self._links.append((site, path, target))

    def settle(self) -> None:
        """All archives have landed: each path goes to the part that was installed last, and links are made."""
        for part, root, name, path in sorted(self._aside, key=lambda each: _rank(each[0])):
            self._owners[root.number, path] = part
            os.replace(name, path, src_dir_fd=root.fd, dst_dir_fd=root.fd)
        for root in {root.number: root for _, root, _, _ in self._aside}.values():
            os.rmdir(_ASIDE, dir_fd=root.fd)
        self._aside.clear()
        with Writer(self) as writer:
            for site, path, target in self._links:
                writer.link(site.root, path, target)
        self._links.clear()


def _rank(part: Part) -> tuple[float, str]:
    return part.installed, part.name


class Writer:
    """Makes files below the roots of a landing, for one thread. Keeps the directories that it is in open."""

    def __init__(self, landing: Landing) -> None:
        self._masked = landing.masked
        self._root: _Root | None = None
        self._folder = ""
        self._names: list[str] = []
        self._fds: list[int] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(0)

    def write(self, root: _Root, path: str, content: bytes, mode: int, modified: float | None = None) -> None:
        """A file with all of its content. modified: Unix time, in place of now."""
        fd = self.open_new(root, path, mode)
        try:
            write_all(fd, content, root.path)
            if modified is not None:
                os.utime(fd, (modified, modified))
        finally:
            os.close(fd)

    @contextmanager
    def create(self, root: _Root, path: str, mode: int) -> Iterator[int]:
        """A new file, open for writing."""
        fd = self.open_new(root, path, mode)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_new(self, root: _Root, path: str, mode: int) -> int:
        folder, _, name = path.rpartition("/")
        try:
            fd = os.open(name, _NEW, mode, dir_fd=self._enter(root, folder))
        except FileExistsError:
            raise Hostile(f"{path[:200]!r} is there already, and no package can have it.") from None
        except OSError as error:
            _refuse(error, root.path)
        if mode & self._masked:
            os.fchmod(fd, mode)
        return fd

    def date(self, root: _Root, path: str, after: str) -> None:
        """Make the file at ``path`` newer than the one at ``after``."""
        folder, _, name = after.rpartition("/")
        time = os.stat(name, dir_fd=self._enter(root, folder), follow_symlinks=False).st_mtime_ns + 1
        folder, _, name = path.rpartition("/")
        os.utime(name, ns=(time, time), dir_fd=self._enter(root, folder), follow_symlinks=False)

    def link(self, root: _Root, path: str, target: str) -> None:
        folder, _, name = path.rpartition("/")
        try:
            os.symlink(target, name, dir_fd=self._enter(root, folder))
        except FileExistsError:
            raise Hostile(f"{path[:200]!r} is there already, and cannot be a link as well.") from None
        except OSError as error:
            _refuse(error, root.path)

    def folder(self, root: _Root, path: str) -> None:
        """A directory, which may be there."""
        self._enter(root, path)

    def _enter(self, root: _Root, folder: str) -> int:
        """The open directory. Archives are sorted, so it mostly is the one before, or near to it."""
        if root is self._root and folder == self._folder:
            return self._fds[-1] if self._fds else root.fd
        if root is not self._root:
            self._leave(0)
            self._root = root
        names = folder.split("/") if folder else []
        shared = 0
        for one, other in zip(names, self._names, strict=False):
            if one != other:
                break
            shared += 1
        self._leave(shared)
        for name in names[shared:]:
            self._fds.append(self._descend(name, self._fds[-1] if self._fds else root.fd, root))
            self._names.append(name)
        self._folder = folder
        return self._fds[-1] if self._fds else root.fd

    def _descend(self, name: str, into: int, root: _Root) -> int:
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=into)
                fd = os.open(name, _FOLDER, dir_fd=into)
                if 0o755 & self._masked:
                    os.fchmod(fd, 0o755)
                return fd
            except FileExistsError:
                return os.open(name, _FOLDER, dir_fd=into)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Hostile(f"{name[:200]!r} is a file or a link, and cannot be a directory as well.") from None
            _refuse(error, root.path)

    def _leave(self, depth: int) -> None:
        self._folder = "/"  # no folder's path
        while len(self._fds) > depth:
            os.close(self._fds.pop())
            self._names.pop()


def write_all(fd: int, content: bytes, where: Path) -> None:
    """All of ``content``. LayerUnusable where there is no room."""
    try:
        written = os.write(fd, content)
        while written < len(content):
            written += os.write(fd, content[written:])
    except OSError as error:
        _refuse(error, where)


def _refuse(error: OSError, where: Path) -> NoReturn:
    if error.errno in _FULL:
        raise LayerUnusable(f"There is no room left for the packages below {where}. Make some, then restore again.") from error
    raise LayerUnusable(f"The packages cannot be written below {where}: {error.strerror}.") from error


def _umask() -> int:
    """Asked of the kernel: asking os.umask changes it for a moment, for all threads. Source: proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o777  # a kernel before 4.7: then modes are set one by one
