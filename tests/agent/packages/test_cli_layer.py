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
    """Each says what it did, in sentences that name the Python and the layer; the doctor's exit code is its judgement."""
    image.unpack(wheel(tmp_path / "furniture", "torch"))
    before = image.contents()
    more = {"DRIVEFS_LAYERS": str(tmp_path / "layers"), "DRIVEFS_AGENT_DIR": str(tmp_path / "state")}

    def run(*words: str, code: int = 0) -> str:
        return image.run(*AGENT, *words, "--python", str(image.python), more=more, code=code)

    assert "has no layer for packages yet" in run("doctor", code=1)
    enabled = run("enable", "--no-watch")
    assert f"What pip installs with {image.python} goes into the layer '{tmp_path}/layers/cp" in enabled
    assert "The image's own stay in place: torch." in enabled
    findings = json.loads(run("doctor", "--json", code=0))
    assert {finding["level"] for finding in findings} <= {"ok", "warn"}
    disabled = run("disable")
    assert f"The image of {image.python} is as it was." in disabled
    assert "stays: drivefs-agent enable uses it again" in disabled
    assert "Nothing of ours was in the image" in run("disable")
    assert image.contents() == before


def test_a_python_that_is_none_ends_with_a_sentence(image: Image) -> None:
    """And with exit code 1; a mistyped option with 2."""
    assert image.run(*AGENT, "enable", "--python", "/no/such/python", code=1) == ""
    assert image.run(*AGENT, "doctor", "--pythom", code=2) == ""
