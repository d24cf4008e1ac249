"""The smaller sources: processes, mounts' daemons, accelerators' nodes."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent.accelerators import Accelerator, read_accelerators
from drivefs_agent.drive import DriveMount, DriveReader
from drivefs_agent.procs import Kernel, describe, read_kernels
from tests.agent.boxes import write

STATUS = {
    "mountpoint": "/content/drive", "account": "me@example.com", "pending_files": 1, "pending_bytes": 2,
    "oldest_pending_age_s": 3.5, "cache_bytes": 4, "cache_limit": None, "pid": 1,
}  # fmt: skip


def test_a_process_of_ours_and_one_that_is_not_here(tmp_path: Path) -> None:
    """Name, owner and command come from /proc; a number without a directory is not ours to see."""
    write(tmp_path, "proc/7/comm", "python3\n")
    write(tmp_path, "proc/7/status", f"Name:\tpython3\nUid:\t{os.getuid()}\t0\t0\t0\n")
    write(tmp_path, "proc/7/cmdline", "python3\0train.py\0--lr\0" + "1" * 500 + "\0")
    who = describe(7, tmp_path)
    assert who is not None
    assert (who.name, who.command[:21], len(who.command)) == ("python3", "python3 train.py --lr", 200)
    assert describe(8, tmp_path) is None


def test_another_process_with_the_hosts_number(tmp_path: Path) -> None:
    """In a container's own namespace the driver's number counts as found only where that process has a card open."""
    write(tmp_path, "proc/7/comm", "bash\n")
    write(tmp_path, "proc/7/status", "Uid:\t0\t0\t0\t0\n")
    write(tmp_path, "proc/7/cmdline", "bash\0")
    (tmp_path / "proc/7/fd").mkdir()
    (tmp_path / "proc/7/fd/0").symlink_to("/dev/pts/0")
    namespace = tmp_path / "proc/self/ns/pid"
    namespace.parent.mkdir(parents=True)
    namespace.symlink_to("pid:[4026532198]")
    assert describe(7, tmp_path) is None
    (tmp_path / "proc/7/fd/3").symlink_to("/dev/nvidia0")
    assert describe(7, tmp_path) == ("bash", "root", "bash")
    namespace.unlink()
    namespace.symlink_to("pid:[4026531836]")
    (tmp_path / "proc/7/fd/3").unlink()
    assert describe(7, tmp_path) == ("bash", "root", "bash")


def test_jupyter_kernels(tmp_path: Path) -> None:
    """A kernel is known by its connection file; other processes are none."""
    write(tmp_path, "proc/7/cmdline", "python\0-m\0ipykernel_launcher\0-f\0/run/kernel-9a8b7c6d-0001.json\0")
    write(tmp_path, "proc/7/statm", "100 10 1 1 0 1 0\n")
    write(tmp_path, "proc/8/cmdline", "vim\0notes.txt\0")
    assert read_kernels(tmp_path) == (Kernel("9a8b7c6d-0001", 10 * os.sysconf("SC_PAGE_SIZE")),)


def test_what_the_daemons_tell() -> None:
    """Pending and cache are taken over under the names of the schema."""
    mounts, error = DriveReader(lambda: [STATUS]).read()
    assert (mounts, error) == ((DriveMount("/content/drive", "me@example.com", 1, 2, 3.5, 4, None),), None)


def test_a_stuck_daemon_holds_nobody() -> None:
    """After the timeout it is not known what waits, which is not the same as nothing."""
    release = threading.Event()

    def stuck() -> list[dict[str, Any]]:
        release.wait()
        return []

    begun = time.monotonic()
    mounts, error = DriveReader(stuck, timeout=0.1).read()
    release.set()
    assert time.monotonic() - begun < 2
    assert (mounts, error) == ((), "no answer within 0.1 s; a drivefs daemon may be stuck: look into its log")


def test_a_daemon_that_answers_otherwise() -> None:
    """A status without what is needed, and a daemon's own sentence, are shown."""

    def refuses() -> list[dict[str, Any]]:
        raise ValueError("The daemon has not answered.")

    assert DriveReader(lambda: [{}]).read()[1] == "the daemon's status lacks 'mountpoint': are both of one version?"
    assert DriveReader(refuses).read()[1] == "The daemon has not answered."


def test_without_drivefs_there_are_no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed is none, and no error."""
    monkeypatch.setitem(sys.modules, "drivefs.client", None)
    assert DriveReader().read() == ((), None)


def test_a_real_socket_that_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket left by a daemon that died is passed over by the client, and so no mount is shown."""
    import socket

    monkeypatch.setenv("DRIVEFS_RUNTIME_DIR", str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "0123.sock"))
    assert DriveReader().read() == ((), None)


def test_a_tpu_in_a_container_without_a_pci_bus(tmp_path: Path) -> None:
    """The device nodes are enough."""
    write(tmp_path, "dev/accel0", "")
    write(tmp_path, "dev/accel1", "")
    assert [each.device for each in read_accelerators(tmp_path)] == ["/dev/accel0", "/dev/accel1"]


def test_nvidias_cards_are_left_to_nvml_where_it_answers(tmp_path: Path) -> None:
    """Told twice would be counted twice."""
    write(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA L4\n")
    assert read_accelerators(tmp_path) == (Accelerator("nvidia_gpu", "NVIDIA L4", "0000:01:00.0"),)
    assert read_accelerators(tmp_path, nvidia=False) == ()
