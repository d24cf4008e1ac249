"""What one Python saved, restored on another: what fits as it is, the rest anew at the same versions; the report says which."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.agent.packages.box import Box, record_problems
from tests.agent.packages.images import THIS, Image, Images
from tests.agent.packages.wheels import compiled, wheel

pytestmark = [pytest.mark.slow]

MINORS = [minor for minor in ("3.12", "3.13", "3.11") if minor != THIS][:2]


def tag(minor: str) -> str:
    return "cp" + minor.replace(".", "")


@pytest.fixture
def saved(image: Image, tmp_path: Path) -> Path:
    """A store with what this Python installed: pure, for the stable ABI, and compiled for this minor version alone."""
    links, mine = image.links, tag(THIS)
    wheel(links, "pure", "1.0", console={"pure": "pure:version"})
    wheel(links, "stable", "1.0", files={"stable.py": "V = 1\n", "_stable.abi3.so": compiled()}, tag="cp38-abi3-linux_x86_64")
    wheel(links, "fast", "1.0", files={"fast.py": f"FOR = {THIS!r}\n", "_fast.so": compiled()}, tag=f"{mine}-{mine}-linux_x86_64")
    wheel(links, "rare", "1.0", files={"rare.py": "", "_rare.so": compiled()}, tag=f"{mine}-{mine}-linux_x86_64")
    box = Box(image, tmp_path / "box", tmp_path / "store").enable()
    box.install("pure", "stable", "fast", "rare")
    box.save()
    return tmp_path / "store"


@pytest.mark.parametrize("minor", MINORS)
def test_another_minor_version(saved: Path, images: Images, tmp_path: Path, minor: str) -> None:
    """Nothing compiled for one Python is ever put before another; what cannot be had for it is named."""
    image = images.make(tmp_path / "other", minor)
    other = tag(minor)
    fast: dict[str, str | bytes] = {"fast.py": f"FOR = {minor!r}\n", "_fast.so": compiled()}
    wheel(image.links, "fast", "1.0", files=fast, tag=f"{other}-{other}-linux_x86_64")
    box = Box(image, tmp_path / "other" / "box", saved)
    report = box.restore()
    told = {word: [item["name"] for item in report[word]] for word in ("restored", "anew", "left_out")}
    assert told == {"restored": ["pure", "stable"], "anew": ["fast"], "left_out": ["rare"]}
    assert (report["complete"], report["saved_on"] != report["here"]) == (False, True)
    assert all(item["reason"] for word in ("anew", "left_out") for item in report[word])
    assert box.installed() == {"pure": "1.0", "stable": "1.0", "fast": "1.0"}
    assert box.evaluate("__import__('fast').FOR") == minor
    assert record_problems(box.site) == []
    assert f"{box.current}/bin/python" in (box.current / "bin" / "pure").read_text()[:300]
    again = box.restore()
    assert (again["restored"], again["anew"]) == ([], [])
    # Its own history begins with all it holds; what both Pythons have is stored once.
    assert re.search("Saved 3 parts .* 1 new archive ", box.save())
    lines = sorted(path.name for path in (saved / "envs" / "default").iterdir())
    assert lines == sorted([f"{tag(THIS)}-x86_64", f"{other}-x86_64"])


def test_another_torch_in_the_image(saved: Path, images: Images, tmp_path: Path) -> None:
    """What was compiled against the image's torch is installed anew where the image has another; the image's torch stays."""
    first = images.make(tmp_path / "first")
    shutil.copytree(tmp_path / "wheels", first.links, dirs_exist_ok=True)
    first.unpack(wheel(tmp_path / "torches" / "2.9.0", "torch", "2.9.0"))
    mine = tag(THIS)
    flash: dict[str, str | bytes] = {"flash_attn.py": "V = 1\n", "_flash.so": compiled()}
    wheel(first.links, "flash-attn", "2.0", files=flash, requires=["torch"], tag=f"{mine}-{mine}-linux_x86_64")
    box = Box(first, tmp_path / "first" / "box", tmp_path / "store2").enable()
    box.pip("install", "flash-attn", "pure")  # unlike uv, it knows the image's torch
    box.save()
    assert box.installed() == {"flash_attn": "2.0", "pure": "1.0"}
    second = images.make(tmp_path / "second")
    shutil.copytree(first.links, second.links, dirs_exist_ok=True)
    second.unpack(wheel(tmp_path / "torches" / "2.13.0", "torch", "2.13.0"))
    fresh = Box(second, tmp_path / "second" / "box", tmp_path / "store2")
    report = fresh.restore()
    assert ([item["name"] for item in report["restored"]], [item["name"] for item in report["anew"]]) == (
        ["pure"],
        ["flash-attn"],
    )
    assert "torch" in report["anew"][0]["reason"]
    assert fresh.evaluate("__import__('torch').version") == "2.13.0"
    assert "torch" not in fresh.installed()
