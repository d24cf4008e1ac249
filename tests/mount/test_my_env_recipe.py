"""The recipe that Colab users know for permanent packages, unchanged: a folder of Drive, linked to, on sys.path, filled by pip.

It is slow on any network drive and knows no versions (docs/packages.md says what to use instead), but it must work: people have
such folders. What needs no cell at all is the agent's (tests/agent/packages).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from ..support.mounts import Mount, check_cache
from ..support.server import Server

pytestmark = [pytest.mark.slow]

# The first cell of each session; PLACE is the link, DRIVE the folder on Drive.
_CELL = """
import os, sys
os.symlink({drive!r}, {place!r})
sys.path.insert(0, {place!r})
"""
_C_SOURCE = r"""
#include <Python.h>
static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_fast(void) {
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddIntConstant(made, "VALUE", 7) < 0) { Py_DECREF(made); return NULL; }
    return made;
}
"""


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes], tag: str = "py3-none-any") -> Path:
    """Made by hand, so that pip needs no network. RECORD has no checksums; pip takes that."""
    info = f"{name}-{version}.dist-info"
    pure = "true" if tag.endswith("any") else "false"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode(),
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n".encode(),
    }
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for inside, content in (files | texts).items():
            packed.writestr(inside, content)
        packed.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in [*files, *texts, f"{info}/RECORD"]))
    return path


def jdc(folder: Path, version: str = "1.0") -> Path:
    code = f"VERSION = {version!r}\ndef main():\n    print('jdc', VERSION)\n".encode()
    return wheel(folder, "jdc", version, {"jdc/__init__.py": code, f"jdc/only_in_{version.replace('.', '_')}.py": b""})


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has pip: this one, or one that is made for it."""
    if importlib.util.find_spec("pip") is not None:
        return Path(sys.executable)
    folder = tmp_path_factory.mktemp("with_pip")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


class Box:
    """One session on a GPU box: cells are run by a Python of their own, as a kernel that was restarted would."""

    def __init__(self, mount: Mount, pip: Path, folder: Path) -> None:
        self.mount = mount
        self.pip = pip
        # By the alias with a space, as the recipe has it (F).
        self.drive = mount.point / "My Drive" / "Colab Notebooks" / "my_env"
        self.place = folder / "notebooks"
        (mount.my / "Colab Notebooks" / "my_env").mkdir(parents=True)

    @property
    def cell(self) -> str:
        return _CELL.format(drive=os.fspath(self.drive), place=os.fspath(self.place))

    def run(self, code: str, *, first: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.pip, "-c", (self.cell if first else "") + code], capture_output=True, text=True, timeout=60, check=False
        )

    def prints(self, code: str) -> str:
        """Of a new session: the link is made again, as on a new machine."""
        self.place.unlink(missing_ok=True)
        done = self.run(code)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def install(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [self.pip, "-m", "pip", "install", "--no-index", "--no-deps", "--disable-pip-version-check"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        done = subprocess.run(
            [*command, f"--target={self.place}", *(os.fspath(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment | {"PIP_CONFIG_FILE": os.devnull},
        )
        assert done.returncode == 0, done
        return done


@pytest.fixture
def box(mount: Mount, pip: Path, tmp_path: Path) -> Box:
    return Box(mount, pip, tmp_path)


def test_a_install_once_b_import_after_everything_local_is_gone(box: Box, tmp_path: Path) -> None:
    """A, B, F: installed by cells 1 and 2; after kill -9 and with an empty cache cell 1 alone makes it importable again."""
    box.run("")
    box.install(jdc(tmp_path))
    assert box.prints("import jdc; print(jdc.VERSION)") == "1.0\n"
    box.mount.flush()
    box.mount.kill()
    box.mount.wipe()
    box.mount.mount()
    found = box.prints("import jdc; print(jdc.__file__)")
    assert found == f"{box.place}/jdc/__init__.py\n"
    without = box.run("import jdc", first=False)
    assert "No module named 'jdc'" in without.stderr


def test_c_the_first_cell_twice_says_what_it_says_on_colab(box: Box) -> None:
    """Python's own error; nothing here hides it."""
    assert box.run("").returncode == 0
    assert "FileExistsError" in box.run("").stderr


def test_e_installing_again_warns_and_upgrade_replaces(box: Box, tmp_path: Path) -> None:
    """pip removes and renames whole trees through the mount; afterwards there is one version, here and on Drive."""
    box.run("")
    box.install(jdc(tmp_path))
    assert "already exists. Specify --upgrade" in box.install(jdc(tmp_path, "2.0")).stderr
    assert box.prints("import jdc; print(jdc.VERSION)") == "1.0\n"
    box.install("--upgrade", jdc(tmp_path, "2.0"))
    assert box.prints("import jdc; print(jdc.VERSION)") == "2.0\n"
    folder = box.mount.my / "Colab Notebooks" / "my_env"
    assert sorted(path.name for path in (folder / "jdc").glob("only_in*")) == ["only_in_2_0.py"]
    script = subprocess.run(
        [folder / "bin" / "jdc"], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(folder)}
    )
    assert script.stdout == "jdc 2.0\n", script  # it kept its mode


def test_g_a_compiled_module_imports_from_the_mount(box: Box, tmp_path: Path) -> None:
    """It is mapped with PROT_EXEC, which a mount without exec would refuse."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("the headers of this Python are not installed")
    source, library = tmp_path / "fast.c", tmp_path / "fast.so"
    source.write_text(_C_SOURCE)
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["gcc", "-shared", "-fPIC", include, os.fspath(source), "-o", os.fspath(library)], check=True, timeout=60)
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    name = f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"
    box.run("")
    arch = os.uname().machine
    box.install(wheel(tmp_path, "fast", "1.0", {name: library.read_bytes()}, f"{tag}-{tag}-linux_{arch}"))
    box.mount.remount(wipe=True)
    assert box.prints("import fast; print(fast.VALUE)") == "7\n"


def test_h_a_thousand_files_do_not_wait_for_a_thousand_answers(box: Box, server: Server, tmp_path: Path) -> None:
    """Installing waits for this disk alone: with the server stopped dead, pip finishes; then each file costs one call."""
    files = {f"many/module_{number}.py": b"VALUE = %d\n" % number for number in range(1000)} | {"many/__init__.py": b""}
    made = wheel(tmp_path, "many", "1.0", files)
    box.run("")
    box.mount.flush()
    box.mount.expect_log("cannot be reached")
    server.stop()
    box.install("--no-compile", made)
    server.start()
    before = server.requests()
    box.mount.flush()
    after = server.requests()
    calls = sum(after.values()) - sum(before.values())
    stored = [path for path in server.paths() if path.startswith("Colab Notebooks/my_env/")]
    assert sum(path.endswith(".py") for path in stored) == len(files)
    assert (after - before)["files.create"] <= len(stored) + 20, after - before
    assert calls < 1.2 * len(stored), after - before


def test_i_a_crash_during_an_installation_doubles_nothing(box: Box, server: Server, tmp_path: Path) -> None:
    """The daemon is killed while pip writes, and mounts again; installed anew, each name is on Drive once."""
    files = {f"many/module_{number}.py": b"VALUE = %d\n" % number for number in range(150)} | {"many/__init__.py": b""}
    made = wheel(tmp_path, "many", "1.0", files)
    box.run("")
    command: list[str | Path] = [
        box.pip,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        f"--target={box.place}",
        made,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pip:
        many = box.mount.my / "Colab Notebooks" / "my_env" / "many"
        while not many.exists() and pip.poll() is None:
            pass
        while pip.poll() is None and len(list(many.iterdir())) < 60:
            pass
        box.mount.kill()
    box.mount.mount()
    box.install("--upgrade", "--no-compile", made)
    assert box.prints("import many.module_149 as last; print(last.VALUE)") == "149\n"
    box.mount.flush()
    names = [path for path in [item["path"] for item in server.tree()] if "my_env" in path]
    assert len(names) == len(set(names))
    assert not [name for name in names if " (1)" in name]
    assert sum(name.endswith(".dist-info") for name in names) == 1
    box.mount.unmount()
    check_cache(box.mount.cache)
    box.mount.mount()
