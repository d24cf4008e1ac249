"""Whatever is not the image's own Python is left alone: virtual environments, other prefixes, what the user has set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivefs_agent.packages.activation import disable, enable
from drivefs_agent.packages.doctor import examine
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import Layer, layer_for
from drivefs_agent.packages.scan import distributions
from tests.agent.packages.images import THIS, Image, Images
from tests.agent.packages.wheels import wheel

# What a program sees that the image's Python has started, as "!command" in a notebook does.
FROM_A_NOTEBOOK = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
PATH = "*__import__('sys').path, sep='\\n'"


@pytest.fixture
def box(image: Image, tmp_path: Path) -> tuple[Image, Layer]:
    """An image with a torch, enabled, and alpha in its layer."""
    image.unpack(wheel(tmp_path / "furniture", "torch", "2.13.0"))
    wheel(image.links, "beta")
    layer = layer_for(ask(image.python), tmp_path / "layers")
    enable(layer)
    (layer.site / "alpha.py").touch()
    return image, layer


def from_a_notebook(image: Image, *command: str | Path) -> str:
    return image.run(image.python, "-c", FROM_A_NOTEBOOK, *command)


@pytest.mark.slow
@pytest.mark.parametrize("told_by", ["pip.conf", "environment"])
def test_a_users_virtual_environment_is_his_own(image: Image, tmp_path: Path, told_by: str) -> None:
    """Its pip installs into it, also where a notebook started it, by whichever way the image's pip is told; it sees no layer."""
    if told_by == "environment":
        (image.prefix / "pip.conf").write_text("[global]\ntimeout = 7\n")
    wheel(image.links, "beta")
    layer = layer_for(ask(image.python), tmp_path / "layers")
    assert enable(layer).pip_told_by == told_by
    mine = tmp_path / "mine"
    image.run(image.python, "-m", "venv", "--system-site-packages", "--without-pip", mine)
    from_a_notebook(image, mine / "bin/python", "-m", "pip", "install", "beta")
    site = mine / layer.interpreter.layer_site
    assert distributions(site) == {"beta": "1.0"}
    assert distributions(layer.site) == {}
    assert str(layer.site) not in from_a_notebook(image, mine / "bin/python", "-c", f"print({PATH})").splitlines()
    (mine / "pyvenv.cfg").write_text((mine / "pyvenv.cfg").read_text().replace("packages = true", "packages = false"))
    seen = from_a_notebook(image, mine / "bin/python", "-c", f"print({PATH})").splitlines()
    assert not [path for path in seen if path.startswith((str(layer.root), str(image.site)))]


@pytest.mark.slow
def test_another_prefix_of_the_same_version_is_not_affected(box: tuple[Image, Layer], images: Images, tmp_path: Path) -> None:
    """As the named environments of conda are: their pip installs into them, and they see nothing of the layer."""
    image, layer = box
    other = images.make(tmp_path / "other")
    (other.prefix / "conda-meta").mkdir()
    from_a_notebook(image, other.python, "-m", "pip", "install", "beta")
    assert distributions(other.site).get("beta") == "1.0"
    assert distributions(layer.site) == {}
    assert str(layer.site) not in from_a_notebook(image, other.python, "-c", f"print({PATH})").splitlines()
    # It may even read the same folder, as the user's own is read by all Pythons of a version.
    code = "import _drivefs_layer, sys; _drivefs_layer.main(); print(*sys.path)"
    assert str(layer.site) not in other.run(other.python, "-c", code, more={"PYTHONPATH": str(image.site)})
    ours = layer_for(ask(other.python), tmp_path / "layers")
    enable(ours)
    assert any("conda" in finding.text for finding in examine(ours, other.environment()))
    disable(ours)
    assert str(layer.site) in image.evaluate(PATH).splitlines()


def variables(image: Image, *names: str, more: dict[str, str] | None = None) -> list[str | None]:
    """As the image's Python has them after its start."""
    found: list[str | None] = eval(image.evaluate(f"[__import__('os').environ.get(name) for name in {names!r}]", more=more))
    return found


def test_what_the_user_has_set_stays(box: tuple[Image, Layer]) -> None:
    """uv is told of the image's torch where nobody told it anything else, and not while the user has an environment active."""
    image, layer = box
    ours = str(layer.root / "protected.txt")
    assert variables(image, "UV_EXCLUDE", "VIRTUAL_ENV", "UV_PYTHON", "PIP_PYTHON") == [ours, None, None, None]
    assert variables(image, "UV_EXCLUDE", more={"UV_EXCLUDE": "mine.txt"}) == ["mine.txt"]
    assert variables(image, "UV_EXCLUDE", more={"UV_EXCLUDE": ""}) == [""]
    assert variables(image, "UV_EXCLUDE", more={"VIRTUAL_ENV": "/mine"}) == [None]
    assert variables(image, "UV_EXCLUDE", more={"DRIVEFS_LAYER": "0"}) == [None]


def test_programs_of_the_layer_come_right_before_the_images(box: tuple[Image, Layer]) -> None:
    """What the user or an active environment has put before the image's programs stays before the layer's, too."""
    image, layer = box
    bin, theirs = str(layer.bin), str(image.bin)
    for given, expected in [
        ([theirs, "/usr/bin"], [bin, theirs, "/usr/bin"]),
        (["/mine/bin", theirs], ["/mine/bin", bin, theirs]),
        (["/usr/bin"], [bin, "/usr/bin"]),
        (["/mine/bin", "/usr/bin"], ["/mine/bin", bin, "/usr/bin"]),
        ([bin, theirs], [bin, theirs]),
        ([theirs, bin], [theirs, bin]),
    ]:
        more = {"PATH": os.pathsep.join(given), "VIRTUAL_ENV": "/mine"}
        assert variables(image, "PATH", more=more) == [os.pathsep.join(expected)]


def test_packages_of_the_layer_come_after_pythonpath_and_before_the_users_own(box: tuple[Image, Layer], tmp_path: Path) -> None:
    """PYTHONPATH is how a person overrides everything, and stays so."""
    image, layer = box
    own = image.home / f".local/lib/python{THIS}/site-packages"
    own.mkdir(parents=True)
    first = tmp_path / "first" / "site-packages"
    first.mkdir(parents=True)
    path = image.evaluate(PATH, more={"PYTHONPATH": str(first)}).splitlines()
    order = [path.index(str(each)) for each in (first, layer.site, own, image.site)]
    assert order == sorted(order)


def test_jupyter_finds_what_the_layer_has_for_it(box: tuple[Image, Layer]) -> None:
    """Extensions that pip put into share/jupyter and etc/jupyter of the layer; what the user named comes first."""
    image, layer = box
    assert variables(image, "JUPYTER_PATH", "JUPYTER_CONFIG_PATH") == [None, None]
    for folder in ("share/jupyter", "etc/jupyter"):
        (layer.current / folder).mkdir(parents=True)
    more = {"JUPYTER_PATH": "/mine"}
    found = variables(image, "JUPYTER_PATH", "JUPYTER_CONFIG_PATH", more=more)
    assert found == [f"/mine:{layer.current}/share/jupyter", f"{layer.current}/etc/jupyter"]


def test_the_hook_costs_little(box: tuple[Image, Layer]) -> None:
    """It imports nothing that Python has not loaded by then, so that no start becomes slow."""
    image, _ = box
    modules = "sorted(__import__('sys').modules)"
    without = set(eval(image.evaluate(modules, more={"DRIVEFS_LAYER": "0"})))
    assert set(eval(image.evaluate(modules))) == without
