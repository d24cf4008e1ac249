"""What the tests of packages share: images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.agent.packages.images import Image, Images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Makes images, of this Python or another; all processes of one run of the tests share the pristine copies."""
    base = tmp_path_factory.getbasetemp()
    return Images((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pristine")


@pytest.fixture
def image(images: Images, tmp_path: Path) -> Image:
    """An image of the Python that runs the tests, of this test alone."""
    return images.make(tmp_path)
