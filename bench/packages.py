"""Packages that survive the box, measured: saving, saving one more, restoring, and what people do instead.

    .venv/bin/python -m bench.packages [--set small|heavy] [--rounds 3] [--only WORD]

A real image (a copy of this Python) gets the set by pip from the index that pip is configured for, so this is the one program
here that needs a network. Then, against an embedded Drive of its own, with requests and bytes as the server counts them:

    save             everything, the first time              restore      into an empty layer, in turns with ``cp -r`` of the same
    save again       nothing is new                                       tree: the ratio is what counts on a shared disk
    save one more    one small package is                    rehearse     import, scripts, pip check, uninstall, on the new box

and the alternatives, each until Drive has everything: ``pip install --target`` into our mount and into rclone's, from a folder of
wheels; those wheels kept in a folder and installed anew by pip and, with a warm cache, by uv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.promises import Drivefs, Rclone
from drivefs.client import running
from tests.agent.packages.box import Box
from tests.agent.packages.images import Image, Images
from tests.support.server import TOKEN, Server

SMALL = ("numpy", "pandas", "requests", "rich", "httpie", "pytest", "pydantic", "sqlalchemy", "pillow", "tqdm")
HEAVY = (
    "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "torch==2.13.0", "transformers", "datasets", "pyarrow", "polars",
    "opencv-python-headless", "numba", "lightgbm", "gensim", "accelerate", "peft", "safetensors", "sentencepiece", "tokenizers",
    "einops", "timm", "seaborn", "plotly", "statsmodels", "networkx", "sympy", "nltk", "fastapi", "httpie", "ipykernel", "tqdm",
    "rich",
)  # fmt: skip
ONE_MORE = "jdc"
IMPORTS = {"small": "numpy, pandas, PIL", "heavy": "torch, numpy, pandas, transformers, scipy, sklearn"}
MB = 1 << 20


@dataclass(frozen=True)
class Row:
    """What one piece of work took. calls, sent, received: at the server; None where it is not about one."""

    name: str
    seconds: float
    calls: int | None = None
    creates: int | None = None
    sent: int | None = None
    received: int | None = None

    def text(self) -> str:
        told = ["" if value is None else f"{value}" for value in (self.calls, self.creates)]
        told += ["" if value is None else f"{value / MB:.1f}" for value in (self.sent, self.received)]
        return f"{self.name:<34}{self.seconds:>9.2f} {told[0]:>7} {told[1]:>8} {told[2]:>9} {told[3]:>9}"


class Meter:
    """Times work, and asks the server what it saw of it."""

    def __init__(self, server: Server | None = None) -> None:
        self._server = server
        self.rows: list[Row] = []

    def run(self, name: str, work: Callable[[], object]) -> float:
        before = self._counts()
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        after = self._counts()
        if before is None or after is None:
            row = Row(name, seconds)
        else:
            row = Row(name, seconds, *(late - early for early, late in zip(before, after, strict=True)))
        self.rows.append(row)
        print(row.text(), flush=True)
        return seconds

    def _counts(self) -> tuple[int, int, int, int] | None:
        if self._server is None:
            return None
        found = self._server.ask("GET", "/_emulator/requests")
        methods = found["by_method"]
        polls = methods.get("changes.list", 0)
        return sum(methods.values()) - polls, methods.get("files.create", 0), found["bytes_in"], found["bytes_out"]


def tree_of(folder: Path) -> tuple[int, int]:
    """Files, and their bytes."""
    sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return len(sizes), sum(sizes)


def pip(box: Box, *words: str | Path) -> None:
    environment = {
        name: value for name, value in box.image.environment(box.more).items() if not name.startswith(("PIP_NO_I", "PIP_F"))
    }
    subprocess.run(["pip", *map(str, words)], env=environment | pip_settings(), check=True, cwd="/", stdout=subprocess.DEVNULL)


def pip_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def measure_ours(home: Path, images: Images, packages: tuple[str, ...], kind: str, rounds: int) -> Path:
    """Returns the layer's site-packages, for the alternatives to be compared with."""
    server = Server(home / "server")
    image = images.make(home / "one")
    Box.patience = 900
    account = {"DRIVEFS_API_ROOT": server.url, "DRIVEFS_ACCESS_TOKEN": TOKEN}
    box = Box(image, home / "one", "MyDrive/Colab Notebooks/my_env", account)
    box.enable()
    meter = Meter(server)
    Meter().run("pip install (from the index)", lambda: pip(box, "install", *packages))
    files, size = tree_of(box.current)
    print(f"{'':<4}{len(box.installed())} distributions, {files} files with the compiled ones, {size / MB:.0f} MiB")
    meter.run("save", box.save)
    meter.run("save again", box.save)
    pip(box, "install", "--no-deps", ONE_MORE)
    meter.run("save one more", box.save)
    restore_rounds(home, images, box, account, meter, rounds)
    rehearse(home, images, account, kind)
    for client in running(runtime=box.more["DRIVEFS_RUNTIME_DIR"]):
        client.unmount(timeout=60)
    server.stop()
    return box.site


def restore_rounds(home: Path, images: Images, box: Box, account: dict[str, str], meter: Meter, rounds: int) -> None:
    """In turns with a copy of the same tree, without what Python compiles anew."""
    plain = home / "plain"
    shutil.copytree(box.current, plain, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    ratios = []
    for number in range(rounds):
        image = images.make(home / f"restored{number}")
        fresh = Box(image, home / f"restored{number}", box.more["DRIVEFS_STORE"], account)
        fresh.enable()
        os.sync()
        copied = Meter().run("  cp -r, and sync", lambda: copy(plain, home / "copy"))
        restored = meter.run("  restore, with its sync", partial(fresh.packages, "restore", "--no-watch", "--no-compile"))
        ratios.append(restored / copied)
        shutil.rmtree(home / "copy")
        for client in running(runtime=fresh.more["DRIVEFS_RUNTIME_DIR"]):
            client.unmount(timeout=60)
        shutil.rmtree(home / f"restored{number}")
    print(f"restore / cp -r: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds")
    shutil.rmtree(plain)


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def rehearse(home: Path, images: Images, account: dict[str, str], kind: str) -> None:
    """A fresh box with nothing but its image: restored, it works."""
    image = images.make(home / "fresh")
    box = Box(image, home / "fresh", "MyDrive/Colab Notebooks/my_env", account)
    report = box.restore()
    assert report["complete"], report["left_out"]
    print(f"rehearsal: {len(report['restored'])} parts restored in {report['seconds']:.1f} s, notes: {report['notes']}")
    said = image.run(image.python, "-c", f"import {IMPORTS[kind]}; print('works')", more=box.more)
    print(f"  import {IMPORTS[kind]}: {said.strip()}")
    path = f"{box.current / 'bin'}:{image.environment()['PATH']}"
    print(f"  http --version: {image.run('http', '--version', more={**box.more, 'PATH': path}).strip()}")
    print(f"  pip check: {box.pip('check').strip()}")
    box.pip("uninstall", "--yes", "tqdm")
    print(f"  pip uninstall tqdm: {'still there' if 'tqdm' in box.installed() else 'gone'}")
    for client in running(runtime=box.more["DRIVEFS_RUNTIME_DIR"]):
        client.unmount(timeout=60)
    shutil.rmtree(home / "fresh")


def measure_others(home: Path, images: Images, packages: tuple[str, ...], patience: float, only: str) -> None:
    image = images.make(home / "others")
    box = Box(image, home / "others", home / "others" / "store")
    wheels = home / "wheels"
    Meter().run("pip wheel (a wheelhouse)", lambda: pip(box, "wheel", "-q", "-w", wheels, *packages))
    _, size = tree_of(wheels)
    print(f"{'':<4}{len(list(wheels.iterdir()))} wheels, {size / MB:.0f} MiB")
    local = ["--no-index", "--find-links", str(wheels)]
    for tool, name in ((None, "wheelhouse, pip"), ("cold", "wheelhouse, uv, cold"), ("warm", "wheelhouse, uv, warm")):
        target = home / "venv"
        subprocess.run([image.python, "-m", "venv", "--without-pip", target], check=True)
        if tool is None:
            command = [image.python, "-m", "pip", "--python", target / "bin" / "python", "install", "-q", *local, *packages]
        else:
            uv = Path(sys.executable).with_name("uv")
            cache = ["--cache-dir", str(home / "uv-cache"), "--offline", "--python", str(target / "bin" / "python")]
            command = [uv, "pip", "install", "-q", *cache, *local, *packages]
        environment = image.environment(box.more)
        Meter().run(name, partial(subprocess.run, command, env=environment, check=True))
        shutil.rmtree(target)
    for client in (Drivefs, Rclone):
        if not only or client.name in only:
            to_mount(home, client, image, local, packages, patience)


def to_mount(
    home: Path, kind: type[Drivefs | Rclone], image: Image, local: list[str], packages: tuple[str, ...], patience: float
) -> None:
    """``pip install --target`` into a mount, until everything is on Drive; given up after ``patience`` seconds."""
    place = Path(tempfile.mkdtemp(prefix="dfb-"))
    client = kind(place, None)
    client.start()
    try:
        meter = Meter(client.server)
        target = client.my / "my_env"
        command = [image.python, "-m", "pip", "install", "-q", "--no-compile", *local, "--target", target, *packages]
        try:
            meter.run(
                f"pip --target, {client.name}",
                lambda: subprocess.run(command, env=image.environment(), check=True, timeout=patience),
            )
            meter.run("  until it is on Drive", lambda: print(f"{'':<4}left: {len(client.drain())}"))
        except subprocess.SubprocessError as error:
            print(f"{'':<4}given up: {type(error).__name__}")
    finally:
        client.end()
        client.server.stop()
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def temporary() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="dfb-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("small", "heavy"), default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="ours, others, drivefs or rclone")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for each installation into a mount")
    options = parser.parse_args()
    packages = HEAVY if options.set == "heavy" else SMALL
    print(f"{'':<34}{'seconds':>9} {'calls':>7} {'creates':>8} {'MiB up':>9} {'MiB down':>9}")
    with temporary() as home:
        images = Images(home / "pristine")
        if options.only in ("", "ours"):
            measure_ours(home, images, packages, options.set, options.rounds)
        if options.only != "ours":
            measure_others(home, images, packages, options.patience, options.only.replace("others", ""))


if __name__ == "__main__":
    main()
