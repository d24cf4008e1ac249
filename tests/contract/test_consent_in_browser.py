"""The consent page in a real browser: its policy lets its style and both buttons work, and the browser comes back to the app."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.contract.signins import SCOPE

if TYPE_CHECKING:
    from tests.contract.conftest import Drive


class Browser:
    """Headless Chromium on its debugging pipe: JSON messages, each ended by a zero byte."""

    def __init__(self, program: str, home: Path) -> None:
        there, self._send = os.pipe()
        self._receive, back = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={home}"]
        # Chromium reads its descriptor 3 and writes to 4.
        command = ["bash", "-c", f'exec "$0" "$@" 3<&{there} 4>&{back}', program, *flags, "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(there, back), stdout=quiet, stderr=quiet)
        os.close(there)
        os.close(back)
        self._held, self._number, self._session = b"", 0, ""
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        self.call("Page.enable")

    def _next(self) -> Any:
        while b"\0" not in self._held:
            piece = os.read(self._receive, 65536)
            assert piece, "Chromium has ended"
            self._held += piece
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(self._send, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url: str) -> None:
        """Go there and wait until the page has loaded."""
        self.call("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._send)
        os.close(self._receive)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    running = Browser(program, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


class _App(http.server.ThreadingHTTPServer):
    """The app that waits on a loopback port for its answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told: dict[str, list[str]] = {}
        self.came = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        app = self.server
        assert isinstance(app, _App)
        if self.path.startswith("/back"):
            app.told = parse_qs(urlsplit(self.path).query)
            app.came.set()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize(("button", "told"), [("allow", {"code", "scope", "state"}), ("deny", {"error", "state"})])
def test_a_button_leads_back_to_the_app(drive: Drive, browser: Browser, button: str, told: set[str]) -> None:
    """The page is drawn with its style; the form's answer, a redirect to another port, is not stopped by the page's policy."""
    with _App() as app:
        serving = threading.Thread(target=app.serve_forever)
        serving.start()
        back = f"http://127.0.0.1:{app.server_address[1]}/back"
        query = {"client_id": "app", "redirect_uri": back, "response_type": "code", "scope": f"{SCOPE}drive", "state": "s"}
        browser.open(f"{drive.url}/o/oauth2/v2/auth?{urlencode(query)}")
        assert browser.evaluate("getComputedStyle(document.body).maxWidth") == "512px"
        browser.evaluate(f"document.querySelector('button[value={button}]').click()")
        arrived = app.came.wait(20)
        app.shutdown()
        serving.join()
    assert (arrived, set(app.told)) == (True, told)
