"""``enable`` and ``disable`` on real Pythons with real pip and uv: where packages land, what stays the image's, what is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from drivefs_agent.packages import activation, image_hook
from drivefs_agent.packages.activation import disable, enable
from drivefs_agent.packages.doctor import Finding, examine
from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import Layer, layer_for
from drivefs_agent.packages.resolve import find_uv
from drivefs_agent.packages.scan import distributions
from tests.agent.packages.images import THIS, Image, Images
from tests.agent.packages.wheels import project, sdist, wheel

SAYS = "import sys\nversion = {!r}\ndef main():\n    print('alpha', version, sys.prefix)\n"


def stock(folder: Path) -> None:
    """What the "index" of these tests has: a torch newer than the image's, and what asks for torch."""
    wheel(folder, "torch", "2.15.0")
    wheel(folder, "alpha", "1.0", requires=["torch>=2"], console={"alpha": "alpha:main"}, files={"alpha.py": SAYS.format("1.0")})
    wheel(folder, "beta", "1.0")
    wheel(folder, "beta", "2.0")


def furnish(image: Image, tmp_path: Path) -> None:
    """What the image brings along: its torch, of a build that no index has, and a beta."""
    image.unpack(wheel(tmp_path / "furniture", "torch", "2.13.0+cpu"))
    image.unpack(wheel(tmp_path / "furniture", "beta", "1.0"))
    stock(image.links)


def layer_of(image: Image, tmp_path: Path) -> Layer:
    return layer_for(ask(image.python), tmp_path / "layers")


@pytest.fixture
def box(image: Image, tmp_path: Path) -> Iterator[tuple[Image, Layer]]:
    """A furnished image and its layer, enabled; at the end the image must be what it was."""
    furnish(image, tmp_path)
    before = image.contents()
    layer = layer_of(image, tmp_path)
    enable(layer)
    yield image, layer
    disable(layer)
    assert image.contents() == before


def where(image: Image, module: str, *options: str) -> Path:
    return Path(image.evaluate(f"__import__({module!r}).__file__", *options))


# -- pip -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("minor", [THIS, "3.13"])
def test_pip_installs_into_the_layer_and_the_image_stays(images: Images, tmp_path: Path, minor: str) -> None:
    """Plain pip, as it came with that Python: torch is the image's, nothing in the image changes, and a script runs."""
    image = images.make(tmp_path, minor)
    furnish(image, tmp_path)
    before = image.contents()
    layer = layer_of(image, tmp_path)
    enabled = enable(layer)
    assert enabled.made
    assert (enabled.pip_told_by, enabled.protected, enabled.pip) == ("pip.conf", ("torch",), None)
    assert "torch>=2 in" in image.pip("install", "alpha")
    assert distributions(layer.site) == {"alpha": "1.0"}
    assert where(image, "alpha").is_relative_to(layer.current)
    assert where(image, "torch").is_relative_to(image.prefix)
    assert (layer.bin / "alpha").read_text().startswith(f"#!{layer.python}\n")
    # As "!alpha" in a notebook: what this Python starts finds the script.
    started = image.run(image.python, "-c", "import os, sys; sys.exit(os.system('alpha'))")
    assert started == f"alpha 1.0 {layer.current}\n"
    disabled = disable(layer)
    assert disabled.removed
    assert image.contents() == before
    assert image.run(image.python, "-c", "import alpha", code=1) == ""


@pytest.mark.slow
def test_upgrading_what_the_image_has_hides_it_until_it_is_uninstalled(box: tuple[Image, Layer]) -> None:
    """The image's copy is never removed, by ``python -m pip`` as little as by pip; without the hook it is there all the time.

    Services start with nothing in their environment, tools with -I: they see what everybody sees.
    """
    image, layer = box
    image.run(image.python, "-m", "pip", "install", "-U", "beta")
    assert image.evaluate("__import__('beta').version") == "2.0"
    assert image.evaluate("__import__('beta').version", more={"DRIVEFS_LAYER": "0"}) == "1.0"
    assert image.run("/usr/bin/env", "-i", image.python, "-c", "import beta; print(beta.version)") == "2.0\n"
    for option in ("-I", "-s", "-E"):
        assert where(image, "beta", option).is_relative_to(layer.current)
    image.run(image.python, "-m", "pip", "uninstall", "-y", "beta")
    assert image.evaluate("__import__('beta').version") == "1.0"
    image.pip("uninstall", "-y", "torch")  # pip says that it is outside its environment, and leaves it
    assert where(image, "torch").is_relative_to(image.prefix)


@pytest.mark.slow
def test_sources_and_editable_installs(box: tuple[Image, Layer], tmp_path: Path) -> None:
    """An sdist is built and lands in the layer; an editable one is imported from its source, through the layer's own .pth."""
    image, layer = box
    image.pip("install", "--no-build-isolation", sdist(tmp_path / "sources", "gamma"))
    image.pip("install", "--no-build-isolation", "-e", project(tmp_path / "delta", "delta"))
    assert distributions(layer.site) == {"gamma": "1.0", "delta": "1.0"}
    assert where(image, "gamma").is_relative_to(layer.current)
    assert where(image, "delta") == tmp_path / "delta/src/delta.py"


@pytest.mark.slow
def test_an_image_that_refuses_pip_takes_it(image: Image, tmp_path: Path) -> None:
    """PEP 668: the marker keeps people from breaking the image, which a layer cannot."""
    furnish(image, tmp_path)
    marker = image.prefix / f"lib/python{THIS}/EXTERNALLY-MANAGED"
    marker.write_text("[externally-managed]\nError=Use the system's packages.\n")
    image.pip("install", "beta==2.0", code=1)
    layer = layer_of(image, tmp_path)
    assert layer.interpreter.externally_managed
    enable(layer)
    image.pip("install", "beta==2.0")
    assert distributions(layer.site) == {"beta": "2.0"}


# -- uv ------------------------------------------------------------------------------------------------------------------


def uv_of_ours() -> Path:
    found = find_uv()
    assert found is not None, "uv is one of our own requirements"
    return found


@pytest.mark.slow
def test_uv_installs_into_the_layer_without_another_torch(box: tuple[Image, Layer]) -> None:
    """As "!uv pip" in a notebook. The image's torch is not fetched anew, though uv does not see it; nor when named."""
    image, layer = box
    code = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    for words in (["install", "alpha"], ["install", "torch"]):
        image.run(image.python, "-c", code, uv_of_ours(), "pip", *words)
        assert distributions(layer.site) == {"alpha": "1.0"}
    assert (layer.bin / "alpha").read_text().startswith(f"#!{layer.python}\n")
    # As enable tells: who wants another all the same.
    image.run(image.python, "-c", code, "/usr/bin/env", "UV_EXCLUDE=", uv_of_ours(), "pip", "install", "torch")
    assert distributions(layer.site) == {"alpha": "1.0", "torch": "2.15.0"}
    image.run(image.python, "-c", code, uv_of_ours(), "pip", "uninstall", "alpha", "torch")
    assert distributions(layer.site) == {}


# -- images that are not so simple ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_somebody_elses_pip_conf_stays_and_holds(image: Image, tmp_path: Path) -> None:
    """Its settings are obeyed where packages are installed; ours is told to pip in another way, and only to pip."""
    furnish(image, tmp_path)
    conf = image.prefix / "pip.conf"
    conf.write_text("[install]\nno-deps = yes\n")
    before = image.contents()
    layer = layer_of(image, tmp_path)
    enabled = enable(layer)
    assert enabled.pip_told_by == "environment"
    assert any(str(conf) in note for note in enabled.notes)
    assert "torch" not in image.pip("install", "alpha")  # no-deps
    assert distributions(layer.site) == {"alpha": "1.0"}
    assert image.evaluate("__import__('os').environ.get('PIP_PYTHON')") == "None"
    disable(layer)
    assert image.contents() == before


@pytest.mark.slow
def test_settings_that_were_added_to_our_pip_conf_stay(box: tuple[Image, Layer]) -> None:
    """Ours are taken out of it."""
    image, layer = box
    conf = image.prefix / "pip.conf"
    conf.write_text(conf.read_text() + "timeout = 77\n")
    assert enable(layer).pip_told_by == "pip.conf"
    disabled = disable(layer)
    assert conf.read_text() == "[global]\ntimeout = 77\n"
    assert any("they stay" in note for note in disabled.notes)
    conf.unlink()


@pytest.mark.slow
def test_another_python_in_the_same_prefix_is_not_diverted(image: Image, tmp_path: Path) -> None:
    """As /usr holds several: a pip.conf would be read by the other's pip, too, so there is none."""
    furnish(image, tmp_path)
    other = image.prefix / "lib/python3.99"
    other.mkdir()
    (other / "os.py").touch()
    layer = layer_of(image, tmp_path)
    assert enable(layer).pip_told_by == "environment"
    assert not (image.prefix / "pip.conf").exists()
    image.run(image.python, "-I", "-m", "pip", "install", "-U", "beta")
    assert distributions(layer.site) == {"beta": "2.0"}


@pytest.mark.slow
def test_an_image_without_a_pip_that_can_gets_one_into_the_layer(images: Images, tmp_path: Path) -> None:
    """pip before 22.3 does not know of other Pythons. The image itself is not touched for it."""
    image = images.make(tmp_path)
    furnish(image, tmp_path)
    program = image.site / "pip" / "__init__.py"
    text = program.read_text()
    program.unlink()  # a hard link, like every file of an image
    program.write_text(re.sub(r'__version__ = ".*"', '__version__ = "22.0.2"', text))
    image.run(image.python, "-I", "-m", "compileall", "-q", image.site)
    before = image.contents()
    layer = layer_of(image, tmp_path)
    assert layer.interpreter.pip == "22.0.2"
    enabled = enable(layer)
    assert enabled.pip is not None
    assert distributions(layer.site) == {"pip": enabled.pip}
    image.pip("install", "alpha")
    assert distributions(layer.site) == {"pip": enabled.pip, "alpha": "1.0"}
    assert enable(layer).pip is None
    disable(layer)
    assert image.contents() == before


@pytest.mark.slow
def test_a_pip_in_the_layer_that_is_older_than_the_images_goes(box: tuple[Image, Layer], tmp_path: Path) -> None:
    """It was needed on another box. Here it would break the image's own program, which expects what comes with it."""
    image, layer = box
    old = wheel(tmp_path / "old", "pip", "22.3", files={"pip/__init__.py": '__version__ = "22.3"\n'})
    subprocess.run([uv_of_ours(), "pip", "install", "-q", "--python", layer.python, old], env=image.environment(), check=True)
    image.pip("--version", code=1)
    assert enable(layer).pip is None
    assert distributions(layer.site) == {}
    image.pip("--version")


def test_no_pip_anywhere_is_said_and_changes_nothing(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do; the image is as it was."""
    image = images.make(tmp_path, pip=False)
    before = image.contents()
    layer = layer_of(image, tmp_path)
    for name, value in image.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(activation, "_bundled", lambda _: iter(()))
    with pytest.raises(LayerUnusable, match="no pip, and a newer one could not be put into the layer"):
        enable(layer)
    assert image.contents() == before


@pytest.mark.slow
def test_an_image_that_cannot_be_written_is_enabled_for_the_user_alone(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook lies in the user's own folder; pip works as elsewhere, and disable leaves that folder as it was: not there."""
    furnish(image, tmp_path)
    before = image.contents()
    for name, value in image.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("PYTHONUSERBASE", "PYTHONNOUSERSITE"):
        monkeypatch.delenv(name, raising=False)
    layer = layer_of(image, tmp_path)
    writable = activation._is_writable
    monkeypatch.setattr(activation, "_is_writable", lambda folder: writable(folder) and not folder.is_relative_to(image.prefix))
    enabled = enable(layer)
    assert enabled.folder.is_relative_to(image.home)
    assert any("for you alone" in note for note in enabled.notes)
    assert image.contents() == before
    image.pip("install", "alpha")
    assert distributions(layer.site) == {"alpha": "1.0"}
    assert where(image, "alpha").is_relative_to(layer.current)
    disable(layer)
    assert image.contents() == before
    assert not (image.home / ".local").exists()
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    with pytest.raises(LayerUnusable, match="PYTHONNOUSERSITE"):
        enable(layer)
    assert not (image.home / ".local").exists()


# -- once, twice, half ---------------------------------------------------------------------------------------------------


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """Tells apart a file that was left alone from one that was written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_enabling_twice_is_enabling_once(box: tuple[Image, Layer]) -> None:
    """Nothing is written again; after one disable the image is clean, and a second one finds nothing."""
    image, layer = box
    first, generation = inodes(image.site) | inodes(image.prefix), layer.generation()
    assert not enable(layer).made
    assert inodes(image.site) | inodes(image.prefix) == first
    assert layer.generation() == generation
    assert disable(layer).removed
    assert not disable(layer).removed


def test_a_layer_that_was_lost_is_given_back(box: tuple[Image, Layer]) -> None:
    """/opt was on another disk: pip must not fail for ever, nor the image keep our files for ever."""
    image, layer = box
    image.evaluate("1")  # compiles the hook
    layer.root.rename(layer.root.with_name("lost"))
    assert image.evaluate("1") == "1"
    (finding,) = examine(layer, image.environment())
    assert (finding.level, "pip fails" in finding.text) == ("bad", True)


def test_a_file_of_somebody_else_is_not_overwritten(image: Image, tmp_path: Path) -> None:
    """Nothing is written at all, and the sentence names it."""
    (image.site / "zz_drivefs_layer.pth").write_text("import antigravity\n")
    before = image.contents()
    layer = layer_of(image, tmp_path)
    with pytest.raises(LayerUnusable, match=r"zz_drivefs_layer\.pth' is there and is not ours"):
        enable(layer)
    assert image.contents() == before
    disable(layer)
    assert image.contents() == before


# Ends a child, as a kill would, in place of its n-th change to a directory; then the parent repairs what that left, and says what
# it sees of ours in the image. One process for all: a start of Python would take longer than what is tried.
_KILLING = """
import json, os, sys
from pathlib import Path
from drivefs_agent.packages.activation import disable, enable, is_enabled
from drivefs_agent.packages.interpreter import Interpreter
from drivefs_agent.packages.layer import layer_for

layer = layer_for(Interpreter(**json.loads(sys.argv[1])), Path(sys.argv[2]))
places = (Path(layer.interpreter.purelib), Path(layer.interpreter.prefix))

def ours():
    names = [entry.name for place in places for entry in place.iterdir()]
    return sorted(name for name in names if "drivefs" in name or name == "pip.conf")

def killed(verb, left):
    def counted(call):
        def once(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return call(*arguments, **options)
        return once
    child = os.fork()
    if child == 0:
        for name in ("replace", "unlink", "mkdir", "rmdir", "rename"):
            setattr(os, name, counted(getattr(os, name)))
            setattr(Path, name, counted(getattr(Path, name)))
        verb(layer)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for verb in (enable, disable):
    for changes in range(100):
        (enable if verb is disable else disable)(layer)
        code = killed(verb, changes)
        left = ours()
        if changes % 2:
            enable(layer)
        enabled = is_enabled(layer)
        disable(layer)
        print(json.dumps([verb.__name__, changes, code, left, enabled, ours()]))
        if code == 0:
            break
"""


@pytest.mark.slow
def test_a_kill_at_any_point_is_repaired(image: Image, tmp_path: Path) -> None:
    """Before each change that enable or disable makes: enabling makes it whole, disabling leaves the image clean."""
    furnish(image, tmp_path)
    layer = layer_of(image, tmp_path)
    enable(layer)
    disable(layer)
    before = image.contents()
    command = [sys.executable, "-c", _KILLING, json.dumps(asdict(layer.interpreter)), str(layer.root.parent)]
    done = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for verb, changes, _, _, enabled, remaining in rows:
        assert enabled or not changes % 2, f"{verb}, killed at {changes}, could not be enabled again"
        assert remaining == [], f"{verb}, killed at {changes}, was not cleaned up"
    for verb in ("enable", "disable"):
        codes = [row[2] for row in rows if row[0] == verb]
        assert codes == [9] * (len(codes) - 1) + [0]
        assert len(codes) > 5
    assert len({tuple(row[3]) for row in rows}) > 6  # the kills left different halves
    assert image.contents() == before


# -- the hook by itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/pip", "install", "x"], True),
        (["/usr/bin/pip3.11", "install", "x"], True),
        (["-m", "pip", "install", "x"], True),
        (["-mpip", "list"], True),
        (["-Im", "pip", "list"], True),
        (["-W", "ignore", "-X", "dev", "-Wdefault", "-m", "pip"], True),
        (["--check-hash-based-pycs", "always", "-m", "pip"], True),
        (["/usr/lib/python3/dist-packages/pip/__main__.py", "list"], True),
        (["/usr/lib/python3/dist-packages/pip", "list"], True),
        (["-m", "ipykernel_launcher", "-f", "pip"], False),
        (["-c", "import pip", "-m", "pip"], False),
        (["-cimport pip"], False),
        (["train.py", "-m", "pip"], False),
        (["/usr/bin/pipx", "install", "x"], False),
        (["-W", "pip"], False),
        (["-"], False),
        ([], False),
    ],
)
def test_the_hook_knows_pip(words: list[str], expected: bool) -> None:
    """By what the process runs; a program that has the word among its own arguments is not it."""
    assert image_hook._is_pip(words) is expected


# -- the doctor ----------------------------------------------------------------------------------------------------------


def told(findings: list[Finding], words: str) -> str:
    """The level of the one finding that has these words in it; empty where none has."""
    return next((finding.level for finding in findings if words in finding.text), "")


@pytest.mark.slow
def test_the_doctor_finds_what_diverts_pip(box: tuple[Image, Layer], tmp_path: Path) -> None:
    """Each variable by its effect or its name, and with the way out."""
    image, layer = box
    more = {"PIP_TARGET": "/elsewhere", "PIP_CONFIG_FILE": os.devnull, "DRIVEFS_LAYER": "0"}
    more |= {"VIRTUAL_ENV": str(tmp_path / "mine"), "UV_SYSTEM_PYTHON": "1"}
    findings = examine(layer, image.environment(more))
    assert told(findings, "does not look for packages in the layer") == "bad"
    assert told(findings, "does not install into the layer") == "bad"
    assert told(findings, "target = /elsewhere") == "bad"
    assert told(findings, "is active") == "warn"
    assert told(findings, "UV_SYSTEM_PYTHON is set") == "warn"
    assert all(finding.advice for finding in findings if finding.level != "ok")
