"""``drivefs-agent enable``, ``doctor`` and ``disable`` as a person runs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.agent.packages.images import Image
from tests.agent.packages.wheels import wheel

AGENT = (sys.executable, "-m", "drivefs_agent")


@pytest.mark.slow
def test_from_enable_to_disable(image: Image, tmp_path: Path) -> None:
    """Each says what it did, in sentences that name the Python and the layer; the doctor's exit code is its judgement.

    The doctor finds what is well, by asking Python, pip and uv themselves, and what is not: what went into the image or a user's
    own folder since enable is not saved; a layer's copy that is older than the image's hides the newer one.
    """
    image.unpack(wheel(tmp_path / "furniture", "torch"))
    before = image.contents()
    more = {"DRIVEFS_LAYERS": str(tmp_path / "layers"), "DRIVEFS_AGENT_DIR": str(tmp_path / "state")}

    def run(*words: str, code: int = 0) -> str:
        return image.run(*AGENT, *words, "--python", str(image.python), more=more, code=code)

    assert "has no layer for packages yet" in run("doctor", code=1)
    enabled = run("enable", "--no-watch")
    assert f"What pip installs with {image.python} goes into the layer '{tmp_path}/layers/cp" in enabled
    assert "The image's own stay in place: torch." in enabled

    wheel(image.links, "beta", "1.0")
    image.pip("install", "beta")
    for name, version, site in [("beta", "2.0", image.site), ("zeta", "4.0", user_site(image))]:
        (site / f"{name}-{version}.dist-info").mkdir(parents=True)
    findings = json.loads(run("doctor", "--json"))
    for level, words in [
        ("ok", "works; it holds 1 distribution."),
        ("ok", "finds the layer's packages before the image's"),
        ("ok", "installs into the layer"),
        ("ok", "uv pip, in notebooks"),
        ("warn", "Installed into the image since enable, not into the layer, and not saved: beta 2.0."),
        ("warn", "The layer hides newer ones of the image: beta 1.0 (2.0)."),
        ("warn", "not in the layer, and not saved: zeta 4.0."),
    ]:
        assert level in [finding["level"] for finding in findings if words in finding["text"]], (words, findings)
    assert {finding["level"] for finding in findings} == {"ok", "warn"}

    (image.site / "beta-2.0.dist-info").rmdir()
    disabled = run("disable")
    assert f"The image of {image.python} is as it was." in disabled
    assert "stays: drivefs-agent enable uses it again" in disabled
    assert "Nothing of ours was in the image" in run("disable")
    assert image.contents() == before
    assert "does not know of its layer" in run("doctor", code=1)


def user_site(image: Image) -> Path:
    """The user's own folder for packages, of the user of these tests."""
    return image.home / f".local/lib/python{image.minor}/site-packages"


def test_a_python_that_is_none_ends_with_a_sentence(image: Image) -> None:
    """And with exit code 1; a mistyped option with 2."""
    assert image.run(*AGENT, "enable", "--python", "/no/such/python", code=1) == ""
    assert image.run(*AGENT, "doctor", "--pythom", code=2) == ""
