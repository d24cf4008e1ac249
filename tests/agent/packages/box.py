"""A rented box, as far as packages see it: an image, a place for layers, and the agent's commands as a person types them."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.agent.packages.images import Image

__all__ = ["Box", "record_problems"]


class Box:
    """store: what ``--store`` gets: a directory or a path on Drive.  more: environment of its commands."""

    patience = 100.0  # seconds for a command

    def __init__(self, image: Image, folder: Path, store: str | Path, more: Mapping[str, str] | None = None) -> None:
        self.image = image
        self.layers = folder / "layers"
        self.more = {
            "DRIVEFS_LAYERS": str(self.layers),
            "DRIVEFS_AGENT_DIR": str(folder / "agent"),
            "DRIVEFS_RUNTIME_DIR": str(folder / "run"),
            "DRIVEFS_DATA_DIR": str(folder / "data"),
            "DRIVEFS_PYTHON": str(image.python),
            "DRIVEFS_STORE": str(store),
            **(more or {}),
        }

    # -- the agent -------------------------------------------------------------------------------------------------

    def start(self, *words: str | Path, more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "drivefs_agent", *map(str, words)],
            env=self.image.environment(self.more | dict(more or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def agent(self, *words: str | Path, code: int = 0, more: Mapping[str, str] | None = None) -> str:
        """Standard output of a command that must end with ``code``; for any other code than 0 what it said besides, too."""
        process = self.start(*words, more=more)
        output, errors = process.communicate(timeout=self.patience)
        assert process.returncode == code, (words, process.returncode, output, errors)
        return output + (errors if code else "")

    def packages(self, *words: str | Path, code: int = 0, more: Mapping[str, str] | None = None) -> str:
        return self.agent("packages", *words, code=code, more=more)

    def enable(self) -> Box:
        self.agent("enable", "--no-watch")
        return self

    def save(self) -> str:
        return self.packages("save")

    def restore(self, *words: str) -> dict[str, Any]:
        """The report."""
        found: dict[str, Any] = json.loads(self.packages("restore", "--no-watch", "--no-compile", "--json", *words))
        return found

    # -- what pip and Python say -----------------------------------------------------------------------------------

    def pip(self, *words: str | Path, code: int | None = 0) -> str:
        return self.image.pip(*words, code=code, more={**self.more, "PIP_NO_COMPILE": "0"})

    def install(self, *words: str | Path) -> None:
        """What pip would install, by uv, which takes a twentieth of the time, for tests that are not about pip."""
        self._uv("install", *words)

    def uninstall(self, *names: str) -> None:
        self._uv("uninstall", *names)

    def _uv(self, command: str, *words: str | Path) -> None:
        uv = Path(sys.executable).with_name("uv")
        self.image.run(uv, "pip", command, "--quiet", "--python", self.current / "bin" / "python", *words, more=self.more)

    def evaluate(self, expression: str) -> str:
        return self.image.evaluate(expression, more=self.more)

    @property
    def layer(self) -> Path:
        (found,) = (path for path in self.layers.iterdir() if path.is_dir())
        return found

    @property
    def current(self) -> Path:
        return self.layer / "current"

    @property
    def site(self) -> Path:
        return self.current / "lib" / f"python{self.image.minor}" / "site-packages"

    def installed(self) -> dict[str, str]:
        """Name and version of what lies in the layer."""
        infos = [path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info")] if self.layers.exists() else []
        return {name: version for name, _, version in (info.partition("-") for info in infos)}

    def wipe(self) -> None:
        """Everything that the box had besides its image is gone; the image is enabled for a layer that is not there."""
        shutil.rmtree(self.layers)


def record_problems(site: Path) -> list[str]:
    """What of RECORD does not hold in a site-packages folder: sizes, checksums, missing files."""
    problems = []
    for record in site.glob("*.dist-info/RECORD"):
        for path, digest, size in csv.reader(record.read_text().splitlines()):
            file = site / path
            if "__pycache__/" in path and not digest:
                continue  # what Python compiles anew
            if not file.exists():
                problems.append(f"{path} is missing")
            elif digest:
                content = file.read_bytes()
                found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                if (digest, int(size)) != (f"sha256={found}", len(content)):
                    problems.append(f"{path} is not what RECORD says")
    return problems
