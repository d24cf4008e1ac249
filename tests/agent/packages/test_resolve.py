"""Installing anew: by real uv and real pip, from wheels of our own, without a network."""

from __future__ import annotations

import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivefs_agent.packages import resolve as module
from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.fit import plan
from drivefs_agent.packages.index_settings import for_uv
from drivefs_agent.packages.model import Part, Target
from drivefs_agent.packages.resolve import Resolved, find_uv, resolve
from tests.agent.packages.states import part
from tests.agent.packages.wheels import compiled, offline, sdist, wheel

BASE = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


def venv(folder: Path, python: Path = BASE, *, system: bool = True) -> Path:
    """The Python of a fresh environment without a pip of its own."""
    if not python.exists():
        pytest.skip(f"no Python at {python}")
    options = ["--system-site-packages"] if system else []
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", *options, folder], check=True, timeout=60)
    return folder / "bin" / "python"


def site(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python3.*/site-packages"))


def holds(python: Path) -> set[str]:
    return {each.name.removesuffix(".dist-info") for each in site(python).glob("*.dist-info")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """What there is to install: a good one, one that is no archive, and one in source form."""
    folder = tmp_path / "links"
    wheel(folder, "alpha", "1.0", console={"alpha": "alpha:version"}, requires=["never-asked-for"])
    sdist(folder, "gamma", "3.0")
    (folder / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    return folder


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two; as where the other is missing."""
    if request.param == "pip":
        monkeypatch.setattr(module, "find_uv", lambda path=None: None)
    elif find_uv() is None:
        pytest.skip("no uv here")
    return str(request.param)


def run(python: Path, parts: list[Part], environment: dict[str, str], protected: Path | None = None) -> Resolved:
    return resolve(python, parts, protected or python.parent / "none.txt", environment=environment)


@pytest.mark.slow
def test_the_rest_is_installed_where_some_cannot_be_had(tmp_path: Path, links: Path, home: Path, installer: str) -> None:
    """A version that is gone and a wheel that is damaged are told one by one; everything else is there, and nothing besides."""
    python = venv(tmp_path / "layer")
    parts = [part("alpha"), part("gamma", "3.0"), part("missing", "9.9"), part("broken")]
    done = run(python, parts, offline(links, home))
    assert sorted(one.name for one in done.installed) == ["alpha", "gamma"]
    assert done.installer == installer
    reasons = {each.part.name: each.reason for each in done.failed}
    assert set(reasons) == {"missing", "broken"}
    assert "missing" in reasons["missing"]
    assert "broken" in reasons["broken"]
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons.values())
    assert holds(python) == {"alpha-1.0", "gamma-3.0"}
    first, *_ = (python.parent / "alpha").read_bytes().splitlines()
    assert str(python).encode() in first


@pytest.mark.slow
def test_what_is_the_images_is_not_touched(tmp_path: Path, links: Path, home: Path, installer: str) -> None:
    """A protected name is refused with a sentence, though it could be had."""
    wheel(links, "torch", "2.0")
    python = venv(tmp_path / "layer")
    (tmp_path / "protected.txt").write_text("Torch\ntorchvision\n")
    done = run(python, [part("torch", "2.0"), part("alpha")], offline(links, home), tmp_path / "protected.txt")
    assert [each.reason for each in done.failed] == ["The image has its own torch, which stays."]
    assert holds(python) == {"alpha-1.0"}


@pytest.mark.slow
def test_settings_that_would_divert_it_are_not_followed(tmp_path: Path, links: Path, home: Path, installer: str) -> None:
    """Where it goes, and which version, is ours to say, whatever the user's shell has set for his own use."""
    wheel(links, "alpha", "1.1")
    python = venv(tmp_path / "layer")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "override.txt").write_text("alpha==1.1\n")
    strange = {
        "PIP_TARGET": str(elsewhere),
        "PIP_PREFIX": str(elsewhere),
        "PIP_USER": "1",
        "PIP_UPGRADE": "1",
        "UV_SYSTEM_PYTHON": "1",
        "UV_OVERRIDE": str(tmp_path / "override.txt"),
        "UV_REQUIRE_HASHES": "1",
        "VIRTUAL_ENV": str(elsewhere),
        "PYTHONHOME": str(elsewhere),
    }
    done = run(python, [part("alpha")], offline(links, home) | strange)
    assert [one.name for one in done.installed] == ["alpha"]
    assert holds(python) == {"alpha-1.0"}
    assert not elsewhere.exists()


def test_editable_and_local_ones_are_refused_without_a_try(tmp_path: Path, home: Path) -> None:
    """What came from files of another box is not looked for, not even where this box has something of that name."""
    python = venv(tmp_path / "layer")
    wheel(home, "alpha")
    parts = [
        replace(part("mine"), editable="/home/me/mine"),
        replace(part("alpha"), direct_url=json.dumps({"url": f"file://{home}/alpha-1.0-py3-none-any.whl", "archive_info": {}})),
    ]
    done = run(python, parts, offline(home, home))
    assert ([one.name for one in done.installed], done.installer) == ([], "")
    assert [each.reason.partition(" on the box")[0].partition(" in /")[0] for each in done.failed] == [
        "It was installed from its source",
        f"It was installed from file://{home}/alpha-1.0-py3-none-any.whl",
    ]


def test_without_any_installer_it_says_what_to_install(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No uv, and a Python without pip: nothing is done, and the sentence names the next step."""
    monkeypatch.setattr(module, "find_uv", lambda path=None: None)
    python = venv(tmp_path / "layer", system=False)
    done = run(python, [part("alpha")], offline(home, home))
    assert [each.reason for each in done.failed] == [
        "There is neither uv nor pip here to install it with. Install uv, and restore again."
    ]


def test_a_layer_without_python_is_an_error(tmp_path: Path, home: Path) -> None:
    """It is the layer that is broken then, not each of the parts."""
    with pytest.raises(LayerUnusable, match="There is no Python at"):
        run(tmp_path / "python", [part("alpha")], offline(home, home))


def test_uv_is_found_beside_our_python_and_then_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that came with drivefs is preferred; any other will do; and there may be none."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "path").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    assert find_uv(str(tmp_path / "path")) is None
    for folder in ("path", "beside"):
        program = tmp_path / folder / "uv"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_uv(str(tmp_path / "path")) == program


# -- the network -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def online(home: Path, index: str) -> dict[str, str]:
    """As ``offline``, but with an index, and without patience."""
    cut = {name: value for name, value in offline(home, home).items() if not name.startswith(("UV_", "PIP_"))}
    hurried = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5", "PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "5"}
    direct = {name: "" for name in cut if name.lower().endswith("_proxy")}
    return cut | hurried | direct | {"PIP_INDEX_URL": index, "UV_CACHE_DIR": str(home / "cache" / "uv")}


@pytest.mark.slow
def test_an_index_that_is_away_is_asked_once(tmp_path: Path, home: Path, nobody: str, installer: str) -> None:
    """Without a network there is one attempt for all, not one for each of a hundred, and the reason says what it is."""
    python = venv(tmp_path / "layer")
    parts = [part(f"p{number}") for number in range(100)]
    begun = time.monotonic()
    done = run(python, parts, online(home, f"http://{nobody}/simple"))
    assert time.monotonic() - begun < 30
    assert len(done.failed) == 100
    assert {each.reason.partition(":")[0] for each in done.failed} == {"The index cannot be reached"}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index (PEP 503) that has alpha."""
    folder = tmp_path / "index" / "simple" / "alpha"
    made = wheel(folder, "alpha", "1.0")
    (folder / "index.html").write_text(f'<a href="{made.name}">{made.name}</a>\n')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path / "index")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_the_index_of_pips_settings_is_asked(tmp_path: Path, home: Path, index: str, installer: str) -> None:
    """Whoever has configured his company's index has done so for pip; uv asks the same one. A dead link spoils nothing."""
    python = venv(tmp_path / "layer")
    environment = online(home, index)
    del environment["PIP_INDEX_URL"]
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {index}\ntrusted-host = 127.0.0.1\n")
    dead = replace(part("dead"), direct_url='{"url": "https://127.0.0.1:1/dead-1.0-py3-none-any.whl", "archive_info": {}}')
    done = run(python, [dead, part("alpha")], environment | {"PIP_CONFIG_FILE": str(settings), "PIP_RETRIES": "0"})
    assert [one.name for one in done.installed] == ["alpha"]
    assert [each.part.name for each in done.failed] == ["dead"]
    assert holds(python) == {"alpha-1.0"}


@pytest.mark.slow
def test_pips_settings_in_uvs_words(tmp_path: Path, home: Path) -> None:
    """Each setting has its counterpart; the environment wins over files, as in pip; uv's own settings win over all of it."""
    python = venv(tmp_path / "layer")
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://a/simple\nproxy = proxy:3128\ncert = /ca.pem\n"
        "[install]\nextra-index-url =\n  https://b/simple\n  https://c/simple\nno-index = true\n"
        "[download]\nfind-links = /other\n"
    )
    environment = {name: value for name, value in offline(home, home).items() if not name.startswith(("UV_", "PIP_"))}
    environment = {
        name: value for name, value in environment.items() if name.lower() not in ("http_proxy", "https_proxy", "ssl_cert_file")
    }
    environment |= {
        "PIP_CONFIG_FILE": str(settings),
        "PIP_FIND_LINKS": "/one /two",
        "PIP_INDEX_URL": "https://user:secret@d/simple",
    }
    environment["https_proxy"] = "http://mine:3128"
    options, words = for_uv(python, environment)
    assert options == ["--no-index"]
    assert words == {
        "UV_DEFAULT_INDEX": "https://user:secret@d/simple",
        "UV_INDEX": "https://b/simple https://c/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/one,/two",
        "HTTP_PROXY": "http://proxy:3128",
        "SSL_CERT_FILE": "/ca.pem",
    }
    assert for_uv(python, environment | {"UV_INDEX_URL": "https://mine/simple"}) == ([], {})
    own = tmp_path / "uv.toml"
    own.write_text('cache-dir = "/x"\n')
    assert for_uv(python, environment | {"UV_CONFIG_FILE": str(own)})[0] == ["--no-index"]
    own.write_text('[[index]]\nurl = "https://mine/simple"\n')
    assert for_uv(python, environment | {"UV_CONFIG_FILE": str(own)}) == ([], {})


# -- time --------------------------------------------------------------------------------------------------------------


def test_what_hangs_is_ended_with_all_that_it_started(tmp_path: Path, home: Path) -> None:
    """A build that never ends takes no longer than it may, and leaves no process behind."""
    python = venv(tmp_path / "layer")
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! >> {tmp_path}/started\nwait\n")
    program.chmod(0o755)
    begun = time.monotonic()
    done = resolve(
        python, [part("alpha"), part("beta")], tmp_path / "none", uv=program, within=0.3, environment=offline(home, home)
    )
    assert time.monotonic() - begun < 20
    assert done.installed == ()
    assert [each.part.name for each in done.failed] == ["alpha", "beta"]
    assert all("no time left" in each.reason for each in done.failed)
    started = [int(line) for line in (tmp_path / "started").read_text().split()]
    assert len(started) == 1
    assert not any(_alive(process) for process in started)


def _alive(process: int) -> bool:
    """A zombie is dead: whoever adopted it may be slow to bury it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.05)
    return True


# -- another Python ----------------------------------------------------------------------------------------------------


def others() -> list[Path]:
    """Pythons of other minors that this machine happens to have."""
    found = {}
    for minor in (10, 11, 12, 13, 14):
        name = f"python3.{minor}"
        folders = [*os.environ.get("PATH", "").split(":"), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin"))]
        real = [path for folder in folders if (path := Path(folder) / name).exists() and "shims" not in folder]
        if real and minor != sys.version_info.minor:
            found[minor] = real[-1]
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("other", others() or [None], ids=lambda path: path.name if path else "none")
def test_a_state_of_one_python_becomes_a_layer_of_another(tmp_path: Path, links: Path, home: Path, other: Path | None) -> None:
    """What is compiled for the one is installed for the other at the same version, and pure ones are not asked for again."""
    if other is None:
        pytest.skip("this machine has no Python of another minor")
    minor = other.name.removeprefix("python3.")
    then = Target("cp", f"3.{sys.version_info.minor}", "", os.uname().machine, "glibc-2.17")
    now = replace(then, minor=f"3.{minor}")
    tags = [f"cp3{each}-cp3{each}-linux_{then.machine}" for each in (sys.version_info.minor, minor)]
    for tag in tags:
        wheel(links, "fast", "1.0", files={"fast.so": compiled(tag)}, tag=tag)
    made = plan(
        [replace(part("fast"), tags=(tags[0],), native=True), replace(part("alpha"), tags=("py3-none-any",))],
        then,
        now,
    )
    assert [one.name for one in made.as_it_is] == ["alpha"]
    python = venv(tmp_path / "layer", other)
    done = run(python, [each.part for each in made.anew], offline(links, home))
    assert [one.name for one in done.installed] == ["fast"]
    assert (site(python) / "fast.so").read_bytes() == compiled(tags[1])
    assert holds(python) == {"fast-1.0"}
