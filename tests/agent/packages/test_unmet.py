"""What a layer's packages miss, asked of a real environment with made-up metadata."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.unmet import unmet

MINOR = sys.version_info.minor


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """The Python of a layer, above an image that is another environment's packages."""
    base = Path(sys.base_prefix) / "bin" / f"python3.{MINOR}"
    if not base.exists():
        pytest.skip(f"no Python at {base}")
    subprocess.run([base, "-I", "-m", "venv", "--without-pip", tmp_path / "layer"], check=True, timeout=60)
    image = tmp_path / "image"
    image.mkdir()
    (site(tmp_path / "layer") / "image.pth").write_text(f"{image}\n")
    return tmp_path / "layer"


def site(layer: Path) -> Path:
    return layer / "lib" / f"python3.{MINOR}" / "site-packages"


def add(folder: Path, name: str, version: str, *lines: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, "", "Text"])
    )


def test_what_is_missing_and_what_does_not_agree(layer: Path) -> None:
    """Each with a command; what the image has counts as there, and what the image itself lacks is not told."""
    image = layer.parent / "image"
    add(image, "torch", "2.13.0+cpu", "Requires-Dist: gone-from-the-image")
    add(image, "numpy", "2.4.6")
    needs = ("torch>=2", "numpy<2", "Missing_One>=1", f"only-elsewhere; python_version < '3.{MINOR}'", "x; extra == 'y'")
    add(site(layer), "user", "1.0", *(f"Requires-Dist: {need}" for need in needs))
    add(site(layer), "newer", "2.0", f"Requires-Python: >=3.{MINOR + 1}")
    add(site(layer), "fine", "3.0", f"Requires-Python: >=3.{MINOR}", "Requires-Dist: user==1.0", "Requires-Dist: this is none")
    here = f"{sys.version_info[0]}.{MINOR}.{sys.version_info[2]}"
    assert unmet(layer / "bin" / "python") == (
        f"newer 2.0 is for Python >=3.{MINOR + 1}, and this is {here}. Install another version: pip install --upgrade newer",
        "user 1.0 needs numpy<2, and numpy 2.4.6 is here: pip install 'numpy<2'",
        "user 1.0 needs Missing_One>=1, which is not here: pip install 'Missing_One>=1'",
    )


def test_the_layers_copy_counts_and_not_the_images(layer: Path) -> None:
    """What comes first on sys.path is what is imported."""
    add(layer.parent / "image", "numpy", "2.4.6")
    add(site(layer), "numpy", "1.26.4")
    add(site(layer), "user", "1.0", "Requires-Dist: numpy<2")
    assert unmet(layer / "bin" / "python") == ()


def test_a_development_version_satisfies(layer: Path) -> None:
    """As pip does with what is installed already."""
    add(layer.parent / "image", "torch", "2.13.0.dev20260101")
    add(site(layer), "user", "1.0", "Requires-Dist: torch>=2")
    assert unmet(layer / "bin" / "python") == ()


def test_a_layer_that_does_not_run(tmp_path: Path) -> None:
    """It is an error of the layer's, and not of its packages."""
    with pytest.raises(LayerUnusable):
        unmet(tmp_path / "bin" / "python")
