"""Layers as such: which Python one is for, generations, the switch between them, locks and notes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from drivefs_agent.packages import interpreter as interpreters
from drivefs_agent.packages.errors import Conflict, LayerUnusable
from drivefs_agent.packages.interpreter import ask, find_interpreter
from drivefs_agent.packages.layer import Layer, find, layer_for, layers_folder
from tests.agent.packages.images import THIS, Image


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """Of the Python that runs the tests; nothing is made yet."""
    return layer_for(ask(sys._base_executable), tmp_path / "layers")  # type: ignore[attr-defined]  # CPython has it


def make_generation(layer: Layer, mark: str) -> Path:
    """A current generation with a file in it that says which one it is."""
    with layer.new_generation() as generation:
        (generation / "mark").write_text(mark)
        layer.switch(generation)
    return generation


# -- a Python, asked -----------------------------------------------------------------------------------------------------


def test_a_python_tells_what_a_layer_must_know(layer: Layer) -> None:
    """Version, machine and folders are the interpreter's own words, and none of this process's environment."""
    found = layer.interpreter
    assert (found.implementation, found.minor) == ("cp", THIS)
    assert found.prefix == found.base_prefix == sys.base_prefix
    assert found.machine == os.uname().machine
    assert found.layer_site == f"lib/python{THIS}/site-packages"
    assert found.purelib in found.sites
    assert layer.name.startswith(f"cp{THIS.replace('.', '')}-{found.machine}-")


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    """With a sentence that says what to do, whatever it does instead."""
    for name, script, reason in [
        ("fails", "exit 3", "does not work as a Python"),
        ("talks", "echo hello", "does not answer as a Python"),
        ("lies", "echo 'drivefs-interpreter:{}'", "does not answer as a Python"),
    ]:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(LayerUnusable, match=reason):
            ask(program)
    with pytest.raises(LayerUnusable, match="cannot be run: No such file"):
        ask(tmp_path / "missing")


def test_what_a_sitecustomize_prints_is_passed_over(tmp_path: Path, layer: Layer) -> None:
    """Images greet their users; an answer is found behind that."""
    python = tmp_path / "greeting"
    python.write_text(f'#!/bin/sh\necho "drivefs-interpreter: welcome"\nexec {layer.interpreter.executable} "$@"\n')
    python.chmod(0o755)
    assert ask(python) == layer.interpreter


def test_layers_of_two_prefixes_are_two(layer: Layer, image: Image) -> None:
    """Also where both are the same version: what is in one was built against its image."""
    other = layer_for(ask(image.python), layer.root.parent)
    assert other.name != layer.name
    assert other.name.rpartition("-")[0] == layer.name.rpartition("-")[0]


def test_where_layers_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$DRIVEFS_LAYERS wins; root's are for all users, others have their own."""
    assert layers_folder({"DRIVEFS_LAYERS": str(tmp_path)}) == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert layers_folder({}) == Path("/opt/drivefs/layers")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert layers_folder({"XDG_DATA_HOME": "/data"}) == Path("/data/drivefs/layers")


# -- which Python --------------------------------------------------------------------------------------------------------


def test_a_kernel_of_jupyter_names_the_python(image: Image, layer: Layer, tmp_path: Path) -> None:
    """The notebook's Python is meant, not the one that happens to be first on PATH; a "python" without a path is the server's."""
    environment = {"PATH": os.path.dirname(layer.interpreter.executable), "HOME": str(tmp_path)}
    assert find_interpreter(None, environment) == layer.interpreter
    kernel = tmp_path / ".local/share/jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": [str(image.python), "-m", "ipykernel_launcher"]}))
    assert find_interpreter(None, environment).prefix == str(image.prefix)
    kernel.write_text(json.dumps({"argv": ["python", "-m", "ipykernel_launcher"]}))
    server = tmp_path / "programs" / "jupyter-lab"
    server.parent.mkdir()
    server.write_text(f"#!{image.python}\n")
    server.chmod(0o755)
    path = f"{environment['PATH']}{os.pathsep}{server.parent}"
    assert find_interpreter(None, environment | {"PATH": path}).prefix == str(image.prefix)
    kernel.write_text("{}")  # a damaged one names nobody
    assert find_interpreter(None, environment) == layer.interpreter


def test_virtual_environments_are_passed_over_and_refused_by_name(layer: Layer, image: Image, tmp_path: Path) -> None:
    """One keeps its own packages. A layer's own Python stands for the image that it is a layer of."""
    image.run(image.python, "-m", "venv", "--without-pip", tmp_path / "mine")
    path = os.pathsep.join([str(tmp_path / "mine/bin"), str(image.bin)])
    assert find_interpreter(None, {"PATH": path, "HOME": str(tmp_path)}).prefix == str(image.prefix)
    with pytest.raises(LayerUnusable, match=f"--python {image.prefix}"):
        find_interpreter(str(tmp_path / "mine/bin/python"))
    ours = layer_for(ask(image.python), tmp_path / "layers")
    make_generation(ours, "one")
    assert find(str(ours.python)).interpreter == ours.interpreter


def test_a_python_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the option that names another. A broken one on PATH does not hide the next."""
    with pytest.raises(LayerUnusable, match=r"no program 'python9\.9'"):
        find_interpreter("python9.9")
    monkeypatch.setattr(interpreters, "_jupyter_folders", lambda *_: iter(()))
    with pytest.raises(LayerUnusable, match="no python3 on PATH"):
        find_interpreter(None, {"PATH": str(tmp_path)})
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    here = os.path.dirname(ask(sys._base_executable).executable)  # type: ignore[attr-defined]  # CPython has it
    assert find_interpreter(None, {"PATH": f"{tmp_path}{os.pathsep}{here}"}).prefix == sys.base_prefix


# -- generations ---------------------------------------------------------------------------------------------------------


def test_a_generation_names_current_and_never_itself(layer: Layer) -> None:
    """What it says of itself stays true when another takes its place, and when it is moved to ``previous``."""
    first = make_generation(layer, "one")
    assert layer.exists()
    assert layer.generation() == first
    assert ask(layer.python).prefix == str(layer.current)
    found = subprocess.run(["grep", "-rlF", first.name, first], capture_output=True, text=True, check=False, timeout=20)
    assert found.stdout == ""
    assert f'VIRTUAL_ENV="{layer.current}"' in (layer.bin / "activate").read_text().replace(
        f"={layer.current}", f'="{layer.current}"'
    )


def test_a_generation_that_was_not_finished_leaves_nothing(layer: Layer) -> None:
    """The current one is what it was."""
    first = make_generation(layer, "one")
    with pytest.raises(RuntimeError, match="half way"), layer.new_generation():
        raise RuntimeError("half way")
    assert layer.generation() == first
    assert list((layer.root / "generations").iterdir()) == [first]
    with pytest.raises(RuntimeError, match="too late"), layer.new_generation() as second:
        layer.switch(second)
        raise RuntimeError("too late")
    assert layer.generation() == second
    assert layer.exists()


def test_the_one_before_is_kept_and_no_older_one(layer: Layer) -> None:
    """Programs that run from it find their files; a layer takes the room of two at most."""
    generations = [make_generation(layer, str(number)) for number in range(3)]
    assert sorted((layer.root / "generations").iterdir()) == sorted(generations[1:])
    assert (layer.root / "previous").resolve() == generations[1]
    assert (layer.current / "mark").read_text() == "2"


def test_what_killed_processes_left_is_collected(layer: Layer) -> None:
    """Half-made generations, workshops of savings, files being written; nothing else."""
    first = make_generation(layer, "one")
    for left in ("generations/20200101T000000-00000000/lib", "saving-xyz/0"):
        (layer.root / left).mkdir(parents=True)
    (layer.root / ".image.json.drivefs-new-00000000").touch()
    (layer.root / ".current-00000000").symlink_to("generations/gone")
    (layer.root / "watch.json").touch()
    layer.collect()
    assert {path.name for path in layer.root.iterdir()} == {"generations", "current", "watch.json"}
    assert list((layer.root / "generations").iterdir()) == [first]


def test_a_folder_in_place_of_a_link_is_not_removed(layer: Layer) -> None:
    """Whoever put it there is told."""
    layer.current.mkdir(parents=True)
    with pytest.raises(LayerUnusable, match="no link of ours"):
        layer.generation()


# A child makes and switches generations until it is killed; the parent looks what that left, twenty times. The environments are
# copies of the first one, which is quicker than to make them, so that most of the time goes into what is tried.
_KILLING = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
from drivefs_agent.packages.interpreter import Interpreter
from drivefs_agent.packages.layer import Layer, layer_for

layer = layer_for(Interpreter(**json.loads(sys.argv[1])), Path(sys.argv[2]))
template = Path(sys.argv[3])
Layer._make_environment = lambda self, made: shutil.copytree(template, made, symlinks=True)
chance = random.Random(6)

def switch_until_killed():
    with layer.locked():
        while True:
            with layer.new_generation() as generation:
                (generation / "whole").touch()
                layer.switch(generation)

for _ in range(20):
    before = layer.generation()
    child = os.fork()
    if child == 0:
        switch_until_killed()
    while layer.generation() == before:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    generation = layer.generation()
    whole = layer.exists() and layer.site.is_dir() and (generation / "whole").exists()
    print(json.dumps([generation.name, whole, len(list((layer.root / "generations").iterdir()))]))
"""


@pytest.mark.slow
def test_kills_leave_the_old_generation_or_the_new_one(layer: Layer) -> None:
    """Twenty kills while generations are made, switched and collected: ``current`` leads to a whole environment, every time."""
    first = make_generation(layer, "first")
    template = layer.root.with_name("template")
    shutil.copytree(first, template, symlinks=True)
    command = [sys.executable, "-c", _KILLING, json.dumps(asdict(layer.interpreter)), str(layer.root.parent), str(template)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [whole for _, whole, _ in rows] == [True] * 20
    assert len({name for name, _, _ in rows}) == 20
    assert max(left for _, _, left in rows) > 2  # some died in the midst of it
    with layer.locked(wait=False):
        layer.collect()
    assert len(list((layer.root / "generations").iterdir())) <= 2
    assert ask(layer.python).prefix == str(layer.current)


# -- locks and notes -----------------------------------------------------------------------------------------------------


def test_one_at_a_time(layer: Layer) -> None:
    """Who does not wait is told; the lock goes with the process that holds it, however that ends."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from drivefs_agent.packages.interpreter import Interpreter; from drivefs_agent.packages.layer import layer_for\n"
        "with layer_for(Interpreter(**json.loads(sys.argv[1])), Path(sys.argv[2])).locked():\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(layer.interpreter)), str(layer.root.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(Conflict, match="at work on the layer"), layer.locked(wait=False):
            pass
        process.kill()
    with layer.locked(wait=False):
        pass


def test_notes_are_whole_or_refused(layer: Layer) -> None:
    """What was written is read; a damaged note is said to be one, and nothing is guessed in its place."""
    assert layer.read_state() is None
    make_generation(layer, "one")
    layer.write_state({"manifest": "x"})
    assert layer.read_state() == {"manifest": "x"}
    make_generation(layer, "two")
    assert layer.read_state() is None  # it spoke of the former generation
    (layer.current / ".drivefs-layer.json").write_text("{")
    with pytest.raises(LayerUnusable, match="damaged"):
        layer.read_state()
    layer.write_image({"version": "3"})
    (layer.root / "image.json").write_text("[]")
    with pytest.raises(LayerUnusable, match="no object"):
        layer.read_image()


def test_a_place_that_cannot_be_written_is_said_so(layer: Layer, tmp_path: Path) -> None:
    """With the variable that names another."""
    (tmp_path / "file").touch()
    with pytest.raises(LayerUnusable, match="DRIVEFS_LAYERS"), layer_for(layer.interpreter, tmp_path / "file").locked():
        pass
