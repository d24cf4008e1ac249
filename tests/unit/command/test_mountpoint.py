"""Where we mount, and whether we can: Colab's checks with Colab's sentences, other mounts, dead mounts, FUSE itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drivefs import mountpoint
from drivefs.base.errors import ExitCode, FuseUnavailable, MountpointUnusable
from drivefs.look import Look

_MINIMAL_FILE_SYSTEM = """
import stat, sys, pyfuse3, trio
class LongRemembered(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.attr_timeout = inode, stat.S_IFDIR | 0o700, 300
        return entry
pyfuse3.init(LongRemembered(), sys.argv[1], {"fsname=drive", "subtype=drive"})
print("mounted", flush=True)
trio.run(pyfuse3.main)
"""


def make_link(path: Path) -> None:
    path.symlink_to(path.parent)


def make_full(path: Path) -> None:
    path.mkdir()
    (path / ".hidden").touch()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (make_link, "Mountpoint must not be a symlink"),
        (make_full, "Mountpoint must not already contain files"),
        (Path.touch, "Mountpoint must either be a directory or not exist"),
        (lambda path: path.parent.rmdir(), "Mountpoint must be in a directory that exists"),
    ],
)
def test_a_refusal_is_colab_s_sentence_and_a_next_step(tmp_path: Path, prepare: Callable[[Path], None], sentence: str) -> None:
    """Programs match the first line to the letter; the second tells what to do. Nothing is made."""
    path = tmp_path / "content" / "drive"
    path.parent.mkdir()
    prepare(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MountpointUnusable) as caught:
        mountpoint.prepare(path)
    first, second = str(caught.value).splitlines()
    assert first == sentence
    assert second
    assert caught.value.exit_code == ExitCode.MOUNTPOINT
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dangling_symlink_is_still_a_symlink(tmp_path: Path) -> None:
    """A link to nowhere must not be taken for an absent mountpoint and made."""
    (tmp_path / "drive").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MountpointUnusable, match="must not be a symlink"):
        mountpoint.prepare(tmp_path / "drive")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_as_parent_is_no_directory_that_exists(tmp_path: Path) -> None:
    """lstat gives ENOTDIR there, not ENOENT."""
    (tmp_path / "file").touch()
    with pytest.raises(MountpointUnusable, match="must be in a directory that exists"):
        mountpoint.prepare(tmp_path / "file" / "drive")


def test_an_absent_mountpoint_is_made_private_and_an_empty_one_is_kept(tmp_path: Path) -> None:
    """The return value says which, so that a failed mount can clean up what it made and only that."""
    made = tmp_path / "new"
    assert mountpoint.prepare(made) is True
    assert made.stat().st_mode & 0o777 == 0o700
    assert mountpoint.prepare(made) is False


@pytest.mark.parametrize(
    ("typed", "sentence"), [("/a b", "Mountpoint must not contain a space."), ("", "Mountpoint must not be empty.")]
)
def test_space_and_emptiness(typed: str, sentence: str) -> None:
    """The first check of all, as in Colab: an empty one would mean the current directory."""
    with pytest.raises(MountpointUnusable) as caught:
        mountpoint.require_no_space(typed)
    assert str(caught.value) == sentence


def test_the_kernel_s_mount_table_is_read_with_its_escapes(tmp_path: Path) -> None:
    """Octal escapes, optional fields, and several mounts at one place, of which the last is on top."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        b"36 35 98:0 /mnt1 /a\\040b\\134c\\011\\012d\\043\xff rw master:1 shared:2 - ext4 /dev/root rw\n"
        b"40 35 0:50 / /content/drive rw shared:7 - ext4 /dev/vdb rw\n"
        b"41 35 0:51 / /content/drive rw - fuse.drive drive rw,user_id=0\n"
        b"42 35 0:52 / /content/drive/MyDrive rw - fuse.sshfs host:/x rw\n"
    )
    strange = mountpoint.mount_at(Path(os.fsdecode(b"/a b\\c\t\nd#\xff")), table)
    assert strange is not None
    assert (strange.kind, strange.source, strange.is_ours) == ("ext4", "/dev/root", False)
    top = mountpoint.mount_at(Path("/content/drive"), table)
    assert top == mountpoint.MountEntry("/content/drive", "fuse.drive", "drive", os.makedev(0, 51))
    assert top.is_ours
    assert mountpoint.mount_at(Path("/content"), table) is None


def test_the_running_kernel_s_table_is_understood() -> None:
    """/proc is a mount of type proc on every Linux."""
    entry = mountpoint.mount_at(Path("/proc"))
    assert entry is not None
    assert entry.kind == "proc"


def test_a_foreign_mount_is_refused() -> None:
    """We neither mount over another file system nor unmount it."""
    with pytest.raises(MountpointUnusable, match=r"is already a mountpoint \(of type tmpfs\)"):
        mountpoint.detach_if_dead(mountpoint.MountEntry("/dev/shm", "tmpfs", "tmpfs"))


def test_a_living_mount_of_ours_is_not_detached(tmp_path: Path) -> None:
    """One that answers, but whose daemon we cannot find, is left alone."""
    with pytest.raises(MountpointUnusable, match="listens elsewhere"):
        mountpoint.detach_if_dead(mountpoint.MountEntry(str(tmp_path), "fuse.drive", "drive"))


def test_a_mount_that_hangs_is_not_detached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped daemon may still hold unsent data in memory and may be continued: only ENOTCONN means dead."""
    monkeypatch.setattr(mountpoint, "look", lambda *_: Look(errno.ETIMEDOUT))
    with pytest.raises(MountpointUnusable, match="does not respond"):
        mountpoint.detach_if_dead(mountpoint.MountEntry(str(tmp_path), "fuse.drive", "drive"))


def test_missing_fuse_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No device: what to give to apt and to docker. No fusermount3: the same."""
    with pytest.raises(FuseUnavailable, match=r"apt-get install fuse3.*--device /dev/fuse --cap-add SYS_ADMIN") as caught:
        mountpoint.require_fuse(tmp_path / "fuse")
    assert caught.value.exit_code == ExitCode.NO_FUSE
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FuseUnavailable, match="fusermount3 is missing"):
        mountpoint.require_fuse()


@pytest.mark.mount
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")
def test_what_a_killed_daemon_leaves_is_removed(tmp_path: Path) -> None:
    """After SIGKILL of a real FUSE daemon, the dead mount is recognised, though stat still works, and detached."""
    place = tmp_path / "drive"
    place.mkdir()
    with subprocess.Popen([sys.executable, "-c", _MINIMAL_FILE_SYSTEM, str(place)], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "mounted\n"
        entry = mountpoint.mount_at(place)
        device = os.lstat(place).st_dev
        daemon.send_signal(signal.SIGKILL)
    os.lstat(place)  # the kernel still answers this one itself
    assert entry == mountpoint.MountEntry(str(place), "fuse.drive", "drive", device)
    mountpoint.detach_if_dead(entry)
    assert mountpoint.mount_at(place) is None
    assert mountpoint.prepare(place) is False
