"""This module goes into an image, as ``_drivefs_layer.py``: it puts the layer in front whenever the image's own Python starts.

Made by: drivefs-agent enable.  Removed by: drivefs-agent disable.

It runs at every start of that Python (``zz_drivefs_layer.pth``, and from Python 3.15 on ``zz_drivefs_layer.start``, PEP 829), so
it imports nothing that is not loaded already, works from Python 3.8 on, and gives way silently where its layer is not there.
Virtual environments, and other Pythons that read the same folder, are left alone. DRIVEFS_LAYER=0 turns it off.
"""

from __future__ import annotations

import os
import site
import sys

__all__ = ["main"]

# Filled in by ``hook.render``.
PREFIX = ""  # sys.prefix of the Python that the layer belongs to
MINOR = (0, 0)  # and its version
LAYER = ""  # the environment; its "current" link, so that it stays true when the layer is replaced
SITE = ""  # where its packages lie
EXCLUDE = ""  # names of the image's distributions that uv is to leave alone; empty where there are none
TELL_PIP = False  # whether pip must be told by us where to install, because no pip.conf of ours could be written


def main() -> None:
    if os.environ.get("DRIVEFS_LAYER") == "0" or sys.prefix != sys.base_prefix or sys.prefix != PREFIX:
        return
    if sys.version_info[:2] != MINOR or SITE in sys.path or not os.path.isdir(SITE):
        return
    _put_packages_first()
    _put_programs_first()
    # uv does not see what a layer sees of the image, and would fetch another torch. Every uv that this process starts reads this,
    # also one that is told to install elsewhere: there, "UV_EXCLUDE= uv pip install torch" is what is meant. To choose a Python
    # for uv (UV_PYTHON) would reach much further, and PATH is enough.
    if EXCLUDE and "VIRTUAL_ENV" not in os.environ:
        os.environ.setdefault("UV_EXCLUDE", EXCLUDE)
    for variable, folder in (("JUPYTER_PATH", "/share/jupyter"), ("JUPYTER_CONFIG_PATH", "/etc/jupyter")):
        if os.path.isdir(LAYER + folder):
            _append(variable, LAYER + folder)
    if TELL_PIP and _is_pip(_arguments()):
        os.environ.setdefault("PIP_PYTHON", LAYER + "/bin/python")


def _put_packages_first() -> None:
    """Before the image's own and the user's, after PYTHONPATH; with the .pth files of the layer (editable installs)."""
    count = len(sys.path)
    site.addsitedir(SITE)
    added = sys.path[count:]
    del sys.path[count:]
    behind = {*site.getsitepackages(), site.USER_SITE}
    index = next((index for index, path in enumerate(sys.path) if path in behind), len(sys.path))
    sys.path[index:index] = added


def _put_programs_first() -> None:
    """For what this process starts. Before the image's own programs; those of an environment that is active stay first."""
    programs = LAYER + "/bin"
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if programs in folders:
        return
    index = 0
    if PREFIX + "/bin" in folders:
        index = folders.index(PREFIX + "/bin")
    else:
        for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
            active = os.environ.get(variable, "") + "/bin"
            if active in folders:
                index = max(index, folders.index(active) + 1)
    folders.insert(index, programs)
    os.environ["PATH"] = os.pathsep.join(folders)


def _append(variable: str, folder: str) -> None:
    folders = [path for path in os.environ.get(variable, "").split(os.pathsep) if path]
    if folder not in folders:
        os.environ[variable] = os.pathsep.join([*folders, folder])


def _arguments() -> list[str]:
    """What this process was started with: sys.argv is not there yet, and sys.orig_argv only from Python 3.10 on."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[1:]]
    except OSError:
        return list(getattr(sys, "orig_argv", [""])[1:])


def _is_pip(words: list[str]) -> bool:
    """Whether a Python started with ``words`` runs pip: as its script, or by -m among Python's own options."""
    words = words[:]
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word.startswith("--"):
            if word == "--check-hash-based-pycs" and words:
                words.pop(0)
            continue
        for position, letter in enumerate(word[1:], 2):
            if letter not in "cmWX":
                continue
            rest = word[position:] or (words.pop(0) if words else "")
            if letter in "cm":
                return letter == "m" and rest in ("pip", "pip.__main__")
            break
    script = os.path.basename((words or [""])[0].rstrip("/"))
    if script == "__main__.py":
        script = os.path.basename(os.path.dirname(words[0]))
    return script.rstrip("0123456789.") == "pip"
