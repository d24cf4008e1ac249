"""What a notebook finds below the mountpoint: the layout, the kind of mount, the attributes of Colab's Drive."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
from pathlib import Path

from ..support.mounts import Mount, errno_of, eventually, mounted_at
from ..support.server import Server
from .conftest import NewMount


def xattr(path: Path, name: str) -> str:
    return os.getxattr(path, f"user.drive.{name}").decode()


def test_top_level(mount: Mount) -> None:
    """Only MyDrive is listed; "My Drive" resolves to the same folder; nobody can add anything beside it."""
    assert os.listdir(mount.point) == ["MyDrive"]
    assert os.path.samefile(mount.my, mount.point / "My Drive")
    (mount.my / "f").write_bytes(b"x")
    assert (mount.point / "My Drive" / "f").read_bytes() == b"x"
    assert os.listdir(mount.point) == ["MyDrive"]
    for name in ("other", "Shareddrives"):
        assert errno_of((mount.point / name).mkdir) == errno.EPERM
    assert errno_of(lambda: os.rename(mount.my, mount.point / "Mine")) == errno.EPERM
    assert errno_of(lambda: os.rmdir(mount.my)) in (errno.EBUSY, errno.EPERM)


def test_kind_of_mount(mount: Mount) -> None:
    """It is ``drive on … type fuse.drive`` with nosuid and nodev, as tools for Colab look for; others see nothing (0700)."""
    source, _, kind, options, *_ = mounted_at(mount.point)
    assert (source, kind) == ("drive", "fuse.drive")
    assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    assert "allow_other" not in options


def test_stat_of_files_and_folders(mount: Mount) -> None:
    """Folders are 0700 with size 4096 and two links, files 0600 with one link; all belong to who mounted."""
    folder, file = mount.my / "d", mount.my / "f"
    os.mkdir(folder, 0o700)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    for path in (mount.point, mount.my, folder):
        status = path.stat()
        assert (stat.filemode(status.st_mode), status.st_size, status.st_nlink) == ("drwx------", 4096, 2)
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    status = file.stat()
    assert (stat.filemode(status.st_mode), status.st_size, status.st_nlink) == ("-rw-------", 0, 1)


def test_statfs_is_the_quota(mount: Mount, server: Server) -> None:
    """df shows the account's storage, not the disk of the machine."""
    quota = server.ask("GET", "/drive/v3/about", fields="storageQuota")["storageQuota"]
    space = os.statvfs(mount.point)
    assert space.f_blocks * space.f_frsize == int(quota["limit"]) // space.f_frsize * space.f_frsize
    assert space.f_bavail * space.f_frsize <= int(quota["limit"]) - int(quota["usage"])
    assert space.f_namemax == 255


def test_xattrs_before_and_after_the_upload(server: Server, new_mount: NewMount) -> None:
    """The id is ``local-…`` and uncommitted is 1 until Drive has the file; then the real id, md5 and 0. None are listed."""
    mount = new_mount().mount("--upload-delay", "600")
    path = mount.my / "f.txt"
    path.write_bytes(b"hello")
    assert xattr(path, "id").startswith("local-")
    assert xattr(path, "uncommitted") == "1"
    assert errno_of(lambda: xattr(path, "md5")) == errno.ENODATA
    stable = xattr(path, "stableid")
    mount.flush(path)
    item = server.paths()["f.txt"]
    assert xattr(path, "id") == item["id"]
    assert xattr(path, "uncommitted") == "0"
    assert xattr(path, "md5") == item["md5"] == hashlib.md5(b"hello").hexdigest()
    assert xattr(path, "mime_type") == item["mimeType"] == "text/plain"
    assert xattr(path, "stableid") == stable
    assert "@" in xattr(path, "email")
    assert xattr(mount.my, "id") == server.root_id
    assert os.listxattr(path) == []
    assert errno_of(lambda: os.getxattr(path, "user.other")) == errno.ENODATA
    assert errno_of(lambda: os.setxattr(path, "user.drive.id", b"mine")) in (errno.EOPNOTSUPP, errno.ENOSYS)


def test_read_only(server: Server, new_mount: NewMount) -> None:
    """With --read-only everything can be read, and every change is EROFS."""
    item = server.create("f", b"read me")
    mount = new_mount().mount("--read-only")
    path = mount.my / "f"
    assert path.read_bytes() == b"read me"
    assert "ro" in mounted_at(mount.point)[3].split(",")
    attempts = (
        lambda: path.write_bytes(b""),
        lambda: (mount.my / "new").touch(),
        lambda: (mount.my / "d").mkdir(),
        lambda: path.unlink(),
        lambda: path.rename(mount.my / "g"),
        lambda: os.truncate(path, 0),
        lambda: os.chmod(path, 0o644),
        lambda: os.utime(path, (1, 1)),
        lambda: os.symlink("f", mount.my / "s"),
    )
    for attempt in attempts:
        assert errno_of(attempt) == errno.EROFS
    assert mount.status()["read_only"] is True
    mount.unmount()
    assert server.paths().keys() == {"f"}
    assert server.content(item) == b"read me"


def test_two_mounts_of_one_drive(mount: Mount, new_mount: NewMount) -> None:
    """What one mount does, the other shows within the poll interval: new, changed, renamed, deleted."""
    other = new_mount().mount()
    assert os.listdir(other.my) == []
    (mount.my / "a").write_bytes(b"one")
    eventually(lambda: (other.my / "a").exists())
    assert (other.my / "a").read_bytes() == b"one"
    (other.my / "a").write_bytes(b"two!")
    eventually(lambda: (mount.my / "a").read_bytes() == b"two!")
    os.rename(mount.my / "a", mount.my / "b")
    eventually(lambda: os.listdir(other.my) == ["b"])
    os.unlink(other.my / "b")
    eventually(lambda: os.listdir(mount.my) == [])


def test_embedded_is_the_default_and_says_so(new_mount: NewMount) -> None:
    """With no account configured the local Drive is mounted, which is said; what is on it is there at the next mount."""
    mount = new_mount()
    for name in ("DRIVEFS_API_ROOT", "DRIVEFS_ACCESS_TOKEN"):
        del mount.environment[name]
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache)
    try:
        assert (done.returncode, done.stdout) == (0, f"Mounted at {mount.point}\n")
        assert "embedded" in done.stderr
        (mount.my / "kept").write_bytes(b"kept")
        mount.unmount()
        mount.wipe()
        again = mount.run("mount", mount.point, "--cache-dir", mount.cache, "--embedded")
        assert (again.returncode, again.stderr) == (0, "")
        assert (mount.my / "kept").read_bytes() == b"kept"
        assert mount.status()["embedded"] is True
        mount.unmount()
    finally:
        end_embedded(mount)


def end_embedded(mount: Mount) -> None:
    server = mount.home / "data" / "embedded" / "server.json"
    if server.exists():
        os.kill(json.loads(server.read_text())["pid"], signal.SIGTERM)
