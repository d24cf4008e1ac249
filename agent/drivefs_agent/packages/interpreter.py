"""A Python of the box, asked about itself; and which one packages are for, where nobody says.

An interpreter is run once, isolated (``-I``) and without our own hook, so that what it says is the image's and not a shell's.
It is named by ``sys.executable``, or by its own name with the version beside that, not by the command that led there: shims and
links such as python3 come to mean another Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from drivefs_agent.packages.errors import LayerUnusable

__all__ = ["PIP_VERSION", "Interpreter", "ask", "find_interpreter", "run_in"]

_SECONDS: Final = 60.0  # a first start from a cold disk, or on a box that is busy with training
_MARK: Final = "drivefs-interpreter:"  # what a sitecustomize prints comes before it

# What pip itself says, where several left their metadata; read, since to import it takes long.
PIP_VERSION: Final = """
import importlib.util, re
try:
    with open(importlib.util.find_spec("pip").origin, encoding="utf-8") as file:
        pip = re.search(r"__version__ *= *['\\"]([^'\\"]+)", file.read()).group(1)
except (AttributeError, TypeError, OSError, UnicodeDecodeError):
    pip = None
"""

# Runs in the other Python, from 3.8 on. venv's own scheme is asked for by name where there is one: Debian's default is not it.
_QUESTION: Final = f"""
import json, os, platform, site, sys, sysconfig
scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
root = {{"base": "/", "platbase": "/", "installed_base": "/", "installed_platbase": "/"}}
stdlib = sysconfig.get_path("stdlib")
{PIP_VERSION}
try:
    import ensurepip
    folder = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    bundled = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.startswith("pip-")]
except (ImportError, OSError):
    bundled = []
try:
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "-")
except (ValueError, OSError):
    libc = "-".join(filter(None, platform.libc_ver()))
name = sys.implementation.name
abi = "t" if "t" in getattr(sys, "abiflags", "") else ""
executable = sys.executable
versioned = os.path.join(os.path.dirname(executable), "python%d.%d%s" % (*sys.version_info[:2], abi))
if os.path.exists(versioned) and os.path.samefile(versioned, executable):
    executable = versioned
print(MARK + json.dumps({{
    "executable": executable,
    "prefix": sys.prefix,
    "base_prefix": sys.base_prefix,
    "base_executable": executable if sys.prefix == sys.base_prefix else getattr(sys, "_base_executable", None) or executable,
    "implementation": {{"cpython": "cp", "pypy": "pp"}}.get(name, name),
    "version": platform.python_version(),
    "minor": "%d.%d" % sys.version_info[:2],
    "abi": abi,
    "machine": sysconfig.get_platform().partition("-")[2].replace("-", "_"),
    "libc": libc or ("musl" if "musl" in (sysconfig.get_config_var("SOABI") or "") else ""),
    "purelib": sysconfig.get_path("purelib"),
    "stdlib": stdlib,
    "sites": [path for path in sys.path if path in {{*site.getsitepackages(), sysconfig.get_path("purelib")}}],
    "user_site": site.getusersitepackages(),
    "layer_site": sysconfig.get_path("purelib", scheme, root).strip("/"),
    "externally_managed": os.path.exists(os.path.join(stdlib, "EXTERNALLY-MANAGED")),
    "pip": pip,
    "bundled_pip": bundled[-1] if bundled else None,
}}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What a Python says of itself.

    executable: its path, with the version in its name where it has such a name.  prefix, base_prefix: as in ``sys``.
    base_executable: of the Python that a virtual environment was made from, else the executable.
    implementation: as in wheel tags ("cp").  version: "3.11.7"; minor: "3.11".  abi: "t" for a free-threaded
    build, else "".  machine: "x86_64", as in wheel tags.  libc: "glibc-2.36", or empty where unknown.  purelib: where its own pip
    puts packages, and where its ``.pth`` files are read.  stdlib: its standard library.  sites: all folders of packages on its
    path, the first to be imported first.  user_site: the user's own (PEP 370).  layer_site: where packages lie below a virtual
    environment of it.  externally_managed: it has the marker of PEP 668.  pip: the version of its own pip, None without.
    bundled_pip: the wheel of pip that came with it (``ensurepip``), where it did.
    """

    executable: str
    prefix: str
    base_prefix: str
    base_executable: str
    implementation: str
    version: str
    minor: str
    abi: str
    machine: str
    libc: str
    purelib: str
    stdlib: str
    sites: tuple[str, ...]
    user_site: str
    layer_site: str
    externally_managed: bool
    pip: str | None = None
    bundled_pip: str | None = None

    @property
    def is_virtual(self) -> bool:
        """It belongs to a virtual environment (PEP 405), or to a layer, which is one."""
        return self.prefix != self.base_prefix

    @property
    def line(self) -> str:
        """As ``model.Target.line``: "cp311-x86_64"."""
        return f"{self.implementation}{self.minor.replace('.', '')}{self.abi}-{self.machine}"


def ask(executable: str | Path, *options: str) -> Interpreter:
    """Run it once. options: Python's own, besides ``-I``.  LayerUnusable where it does not run, or is no Python we know."""
    answer = run_in(executable, f"MARK = {_MARK!r}\n{_QUESTION}", *options)
    _, _, text = answer.rpartition(_MARK)
    try:
        values: dict[str, Any] = json.loads(text)
        values["sites"] = tuple(values["sites"])
        return Interpreter(**{field.name: values[field.name] for field in fields(Interpreter)})
    except (ValueError, KeyError, TypeError) as error:
        raise LayerUnusable(f"{str(executable)!r} does not answer as a Python of 3.8 or newer does.") from error


def run_in(executable: str | Path, code: str, *options: str, environment: Mapping[str, str] | None = None) -> str:
    """What ``code`` prints in another Python: isolated and without our hook, unless ``environment`` is given.

    It leaves no compiled files behind in the image.
    """
    isolated = ("-B", "-I") if environment is None else ("-B",)
    environment = {**os.environ, "DRIVEFS_LAYER": "0"} if environment is None else environment
    command = [str(executable), *isolated, *options, "-c", code]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise LayerUnusable(f"{str(executable)!r} cannot be run: {error.strerror}. Name a Python: --python PATH") from error
    except subprocess.TimeoutExpired as error:
        raise LayerUnusable(f"{str(executable)!r} has not answered within {_SECONDS:.0f} s. Is its disk reachable?") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise LayerUnusable(f"{str(executable)!r} does not work as a Python ({last}). Name another: --python PATH")
    return done.stdout


# -- which one -----------------------------------------------------------------------------------------------------------


def find_interpreter(python: str | None, environment: Mapping[str, str] = os.environ) -> Interpreter:
    """The Python whose packages are meant: the one that is named, else that of Jupyter's kernel ``python3``, else on PATH.

    A layer's own Python stands for the image's. A virtual environment is refused where it is named, and passed over elsewhere.
    """
    if python is not None:
        named = shutil.which(python, path=environment.get("PATH"))
        if named is None:
            raise LayerUnusable(f"There is no program {python!r}. Name a Python by its path: --python /usr/bin/python3")
        found = _of_the_image(ask(named))
        if found.is_virtual:
            raise LayerUnusable(
                f"{found.executable!r} belongs to a virtual environment, which keeps its own packages. "
                f"Name the Python that it was made from: --python {found.base_executable}"
            )
        return found
    for candidate in (*_kernels(environment), *_on_path(environment)):
        try:
            found = _of_the_image(ask(candidate))
        except LayerUnusable:  # a broken one: a search goes on to the next
            continue
        if not found.is_virtual:
            return found
    raise LayerUnusable("There is no python3 on PATH but in virtual environments. Name one: --python /usr/bin/python3")


def _of_the_image(found: Interpreter) -> Interpreter:
    """For a layer's own Python, the one that it was made from."""
    is_layer = os.path.isdir(os.path.join(os.path.dirname(found.prefix), "generations"))
    return ask(found.base_executable) if found.is_virtual and is_layer else found


def _on_path(environment: Mapping[str, str]) -> Iterator[str]:
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        if found := shutil.which("python3", path=folder):
            yield found


def _kernels(environment: Mapping[str, str]) -> Iterator[str]:
    """The interpreter of the kernel ``python3`` as Jupyter finds it.

    Its search order: $JUPYTER_PATH, the user's folder, the server's prefix, the system's. A specification that says only
    "python" means the server's own (jupyter_client: ``KernelSpecManager``, ``format_kernel_cmd``).
    """
    server = _server_python(environment)
    for folder in _jupyter_folders(environment, server):
        try:
            with open(os.path.join(folder, "kernels", "python3", "kernel.json"), encoding="utf-8") as file:
                argv = json.load(file)["argv"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if argv and os.path.isabs(argv[0]):
            yield argv[0]
        elif server is not None:
            yield server


def _jupyter_folders(environment: Mapping[str, str], server: str | None) -> Iterator[str]:
    yield from filter(None, environment.get("JUPYTER_PATH", "").split(os.pathsep))
    home = environment.get("HOME") or os.path.expanduser("~")
    data = environment.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    yield environment.get("JUPYTER_DATA_DIR") or os.path.join(data, "jupyter")
    if server is not None:
        yield os.path.join(os.path.dirname(os.path.dirname(server)), "share", "jupyter")
    yield "/usr/local/share/jupyter"
    yield "/usr/share/jupyter"


def _server_python(environment: Mapping[str, str]) -> str | None:
    """The interpreter in the first line of the program ``jupyter-lab`` or ``jupyter``."""
    for name in ("jupyter-lab", "jupyter"):
        if script := shutil.which(name, path=environment.get("PATH")):
            try:
                with open(script, "rb") as file:
                    first = file.readline(4096)
            except OSError:
                return None
            words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
            return words[0] if words and os.path.basename(words[0]).startswith("python") else None
    return None
