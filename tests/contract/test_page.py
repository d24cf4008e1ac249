"""The operator's page: what it shows, that nothing in it runs, and how a browser renders it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.conftest import Drive

pytestmark = pytest.mark.emulator
EVIL = "<script>document.title='pwned'</script>\"'>\u202eexe.txt"


class _Page(HTMLParser):
    """Texts of cells, and the tags used."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_cell = tag == "td"
        if self._in_cell:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def _show(drive: Drive) -> tuple[dict[str, str], str]:
    answer = drive.send("GET", "/", token=None)
    assert answer.status == 200
    return answer.headers, answer.body.decode()


def test_what_the_page_shows(drive: Drive) -> None:
    """The page lists files with their paths, uploads under way, requests, faults in force and accounts."""
    drive.upload("model.bin", b"x" * 2048, drive.folder("runs"))
    opened = drive.send("POST", "/upload/drive/v3/files?uploadType=resumable", body=b'{"name": "half.bin"}', headers={
        "Content-Type": "application/json", "X-Upload-Content-Length": str(1 << 20),
    })  # fmt: skip
    chunk = {"Content-Range": f"bytes 0-{(256 << 10) - 1}/{1 << 20}"}
    assert drive.send("PUT", opened.headers["location"], body=bytes(256 << 10), headers=chunk).status == 308
    drive.send("POST", "/_emulator/users", body=b'{"email": "bob@example.com", "name": "Bob"}')
    rule = {"method": "files.copy", "status": 503}
    posted = drive.send("POST", "/_emulator/faults", body=json.dumps(rule).encode())
    try:
        cells = _Page(_show(drive)[1]).cells
    finally:
        drive.send("DELETE", "/_emulator/faults")
    for wanted in ("runs/model.bin", "runs/", "half.bin", "256.0 KiB", "1.0 MiB", "files.create"):
        assert wanted in cells, wanted
    assert "bob@example.com" in cells
    assert posted.status == 200
    assert "method = files.copy, status = 503" in cells


def test_names_are_text_and_nothing_runs(drive: Drive) -> None:
    """A name that is markup is shown as text, direction marks made visible; the policy allows no script, one style by hash."""
    drive.create(EVIL)
    headers, html = _show(drive)
    page = _Page(html)
    assert "<script>document.title='pwned'</script>\"'>\\u202eexe.txt" in page.cells
    assert not page.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert not re.search(r"\son\w+=|javascript:", html.replace(page.cells[0], ""))
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_is_for_this_machine(drive: Drive) -> None:
    """Web pages of others get nothing of it, and looking at it is not counted."""
    assert drive.send("GET", "/", headers={"Origin": "http://evil.example"}).status == 403
    assert drive.send("GET", "/", headers={"Host": "evil.example"}).status == 403
    assert drive.send("GET", "/_emulator/requests").json()["by_method"] == {}


def _chromium(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    return subprocess.run([program, *flags, *arguments], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.slow
def test_in_a_browser(drive: Drive, tmp_path: Path) -> None:
    """Headless Chromium renders the page with its style, and a script in a name does not run."""
    drive.create(EVIL)
    drive.upload("notes.txt", b"hello")
    rendered = _chromium(tmp_path, "--dump-dom", drive.url + "/").stdout
    assert "<title>Embedded Drive</title>" in rendered
    assert "notes.txt" in rendered
    picture = tmp_path / "page.png"
    done = _chromium(tmp_path, f"--screenshot={picture}", "--window-size=1200,900", drive.url + "/")
    assert picture.stat().st_size > 10_000
    assert "Content Security Policy" not in done.stderr
