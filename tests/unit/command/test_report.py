"""What is said about the daemon's state."""

from __future__ import annotations

from typing import Any

import pytest

from drivefs.report import age_text, progress_text, size_text, status_text, unsent_line

QUIET: dict[str, Any] = {
    "mountpoint": "/content/drive",
    "pid": 7,
    "api_root": "http://127.0.0.1:1",
    "account": "a@b",
    "cache_dir": "/c",
    "read_only": False,
    "pending_files": 0,
    "pending_bytes": 0,
    "oldest_pending_age_s": None,
}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2 - 1, "1.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    """Binary units with their own names; never 1024.0 of a smaller one."""
    assert size_text(size) == text


@pytest.mark.parametrize(("age", "text"), [(0.9, "0 s"), (75, "1 min 15 s"), (7322, "2 h 2 min")])
def test_ages(age: float, text: str) -> None:
    """The two largest units."""
    assert age_text(age) == text


def test_the_first_line_answers_whether_it_is_safe_to_power_off() -> None:
    """Yes only when nothing is pending; else how much, and since when."""
    assert status_text(QUIET).splitlines()[0] == "safe to power off: yes (everything is on Drive)"
    busy = {**QUIET, "pending_files": 2, "pending_bytes": 1536, "oldest_pending_age_s": 75.5}
    assert status_text(busy).splitlines()[0] == "safe to power off: no (2 files, 1.5 KiB, oldest 1 min 15 s)"


def test_a_list_that_was_cut_says_so() -> None:
    """The daemon names at most a hundred files; the rest is counted."""
    entry = {"path": "/p", "size": 1, "age_s": 1, "reason": "waiting"}
    text = status_text({**QUIET, "pending_files": 3, "pending_bytes": 3, "oldest_pending_age_s": 1, "pending": [entry]})
    assert "  and 2 more" in text.splitlines()


@pytest.mark.parametrize("evil", ["\x1b[2J", "a\r\nb", "\u202egpj", "\x07", "\udcff"])
def test_names_from_strangers_do_not_act_on_the_terminal(evil: str) -> None:
    """Escape sequences, line breaks, direction overrides and bytes that are no text are shown escaped, wherever they stand."""
    entry = {"path": evil, "size": 1, "age_s": 1, "reason": evil}
    error = {"when": 0, "what": evil, "subject": evil}
    text = status_text(
        {**QUIET, "account": evil, "cache_dir": evil, "pending_files": 1, "pending": [entry], "last_errors": [error]}
    )
    for line in [*text.split("\n"), unsent_line(entry)]:
        assert line.isprintable()


def test_progress_says_what_is_known() -> None:
    """Bytes are shown where the daemon tells them."""
    assert progress_text({"pending_files": 3}) == "to be sent: 3 files"
    assert progress_text({"pending_files": 3, "pending_bytes": 1536}) == "to be sent: 3 files (1.5 KiB)"


def test_a_mount_that_is_no_more_is_not_safe() -> None:
    """What its last session left, or that nobody knows; why nothing mounts it again; and what to do."""
    gone: dict[str, Any] = {
        "mountpoint": "/content/drive",
        "mounted": False,
        "cache_dir": "/c",
        "gave_up": None,
        "pending_files": 1,
        "pending_bytes": 2048,
        "oldest_pending_age_s": 3,
        "pending": [{"path": "/p", "size": 2048, "age_s": 3, "reason": "being sent"}],
    }
    lines = status_text(gone).splitlines()
    assert lines[0] == "safe to power off: no (not mounted: 1 file, 2.0 KiB of the last session only in the cache '/c')"
    assert lines[-1] == "Mount it again, and what is left is sent."
    crashed = status_text({**gone, "pending_files": None, "pending": [], "gave_up": "Five times."}).splitlines()
    assert crashed[0].startswith("safe to power off: no (not mounted: its daemon crashed")
    assert "Five times." in crashed


def test_how_long_it_takes_is_said_where_it_is_known() -> None:
    """An estimate follows the figures; none is made up."""
    busy = {**QUIET, "pending_files": 1, "pending_bytes": 1, "oldest_pending_age_s": 1}
    assert status_text({**busy, "estimated_seconds": 75}).splitlines()[0].endswith("oldest 1 s, about 1 min 15 s to go)")
    assert status_text({**busy, "estimated_seconds": None}).splitlines()[0].endswith("oldest 1 s)")


def test_what_a_person_should_know_of_the_mount_is_told() -> None:
    """No supervisor, no sign-in, programs that wait; and nothing of it where all is well."""
    waiting = [{"operation": "read", "path": "/a\nb", "seconds": n, "what": "a listing"} for n in (2, 75)]
    text = status_text({**QUIET, "supervised": False, "offline": "no route", "waiting": waiting, "cache_limit": 1 << 30})
    assert "not supervised: after a crash it has to be mounted again by hand" in text
    assert "not signed in yet: no route" in text
    assert text.index("read '/a\\nb' for 1 min 15 s: a listing") < text.index("read '/a\\nb' for 2 s: a listing")
    assert "cache: 0 B of 1.0 GiB" in text
    calm = status_text({**QUIET, "supervised": True, "offline": None, "waiting": []})
    assert "supervised" not in calm
    assert "signed in" not in calm
    assert "waiting" not in calm
