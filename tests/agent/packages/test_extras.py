"""What drivefs-agent.toml may declare, where it lies on a box, and how mistakes are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from drivefs_agent.host import Mount
from drivefs_agent.packages.errors import Misdeclared
from drivefs_agent.packages.extras import TEMPLATE, Declared, Extras, apt_packages, load, places

NONE: Mapping[str, str] = {}
DISK = Mount("/", "/dev/vda1", "ext4")


def where(
    home: Path, *directories: str, ssh: bool = False, own: tuple[Path, ...] = (), variables: Mapping[str, str] = NONE
) -> tuple[Declared, ...]:
    mounts = [DISK, Mount(f"{home}/drive", "drivefs", "fuse.drivefs"), Mount("/windows", "/dev/sda1", "fuseblk")]
    return places(Extras(directories, ssh=ssh), own, environment={"HOME": str(home), **variables}, mounts=mounts)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_whole_file_is_understood() -> None:
    """All that can be said, and an empty file says nothing."""
    text = '[persist]\ndirectories = ["$HF_HOME", "~/data"]\nssh = true\napt = true\n'
    assert load(text) == Extras(("$HF_HOME", "~/data"), ssh=True, apt=True)
    assert load("") == load("[persist]\n") == Extras()


def test_the_template_is_valid_and_gives_nothing_away() -> None:
    """A fresh store begins with a file that explains itself, and that saves neither keys nor folders."""
    assert load(TEMPLATE) == Extras((), ssh=False, apt=True)
    assert places(load(TEMPLATE), mounts=[DISK]) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[persist\n", "is not valid TOML: .*line 1"),
        ("[presist]\n", "presist is not known. These are: persist.$"),
        ("persist = 1\n", r"Write \[persist\] on a line of its own"),
        (
            "[persist]\ndirectory = []\n",
            "persist.directory is not known. These are: persist.directories, persist.ssh, persist.apt",
        ),
        ('[persist]\nssh = "no"\n', "persist.ssh is 'no'. Write true or false"),
        ("[persist]\napt = 1\n", "persist.apt is 1. Write true or false"),
        ('[persist]\ndirectories = "~/data"\n', "persist.directories is '~/data'. Write a list of texts"),
        ("[persist]\ndirectories = [1]\n", "persist.directories has 1. Write a list of texts"),
        ('[persist]\ndirectories = [""]\n', "persist.directories has ''. Write a list of texts"),
        ('[persist]\ndirectories = ["a\\u0000b"]\n', "persist.directories has "),
        ("#" * 70000, "Is it the right file"),
        ("a = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_a_sentence(text: str, words: str) -> None:
    """What is not understood is not passed over: something would not be kept that its owner believes kept."""
    with pytest.raises(Misdeclared, match=words) as caught:
        load(text)
    assert str(caught.value).startswith(("drivefs-agent.toml", "In drivefs-agent.toml"))


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "variables", "name", "path"),
    [
        ("~/data", {}, "home-data", "{home}/data"),
        ("~/.jupyter/", {}, "home-.jupyter", "{home}/.jupyter"),
        ("$HF_HOME", {}, "HF_HOME", "{home}/.cache/huggingface"),
        ("${HF_HOME}", {"XDG_CACHE_HOME": "/fast"}, "HF_HOME", "/fast/huggingface"),
        ("$HF_HOME", {"HF_HOME": "/workspace/hf"}, "HF_HOME", "/workspace/hf"),
        ("$HF_HOME", {"HF_HOME": "~/models"}, "HF_HOME", "{home}/models"),
        ("$TORCH_HOME/hub", {}, "TORCH_HOME-hub", "{home}/.cache/torch/hub"),
        ("$JUPYTER_CONFIG_DIR", {}, "JUPYTER_CONFIG_DIR", "{home}/.jupyter"),
        ("$MINE", {"MINE": "/data/mine"}, "MINE", "/data/mine"),
        ("/workspace", {}, "root-workspace", "/workspace"),
        ("//workspace//", {}, "root-workspace", "/workspace"),
        ("/windows/data", {}, "root-windows_data-7cf03559", "/windows/data"),
    ],
)
def test_where_a_directory_lies(tmp_path: Path, text: str, variables: dict[str, str], name: str, path: str) -> None:
    """Its name tells what was declared and is the same everywhere; its path is this box's, by its own variables."""
    assert where(tmp_path, text, variables=variables) == (Declared(name, Path(path.format(home=tmp_path)), text),)


def test_names_are_unique_and_can_be_kept(tmp_path: Path) -> None:
    """What reads alike without its strange characters is told apart; and names are such as parts may have."""
    texts = ["~/a/b", "~/a_b", "~/a b", "~/ä", "~/" + "x" * 300]
    names = [one.name for one in where(tmp_path, *texts)]
    assert len(set(names)) == len(texts)
    assert all(len(name) < 100 and name.isascii() and not set(name) & set("/ ") for name in names)
    assert names == [one.name for one in where(tmp_path / "other", *texts)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/", "holds far more"),
        ("~", "holds far more"),
        ("$HOME", "holds far more"),
        ("{home}/..", "leads through"),
        ("{parent}", "holds far more"),
        ("/etc", "belongs to the system"),
        ("/etc/cron.d", "belongs to the system"),
        ("/usr/local/lib", "belongs to the system"),
        ("data", "is not an absolute path"),
        ("./data", "is not an absolute path"),
        ("~/a/../../etc", "leads through"),
        ("~root/x", "only one's own home"),
        ("$NOWHERE", "is not set on this box"),
        ("$HF_HOME$TORCH_HOME", "only one variable"),
        ("$", "only one variable"),
        ("$RELATIVE", "is not an absolute path"),
        ("$ITSELF", "is defined by itself"),
        ("~/.ssh", "Use ssh = true"),
        ("~/.ssh/keys", "Use ssh = true"),
        ("~/.config", "holds keys, or what runs by itself"),
        ("~/drive", "is not a disk of this box"),
        ("~/drive/MyDrive/x", "is not a disk of this box"),
        ("~/layers", "keeps its own files in"),
        ("~/layers/cp311", "keeps its own files in"),
        ("~/link-to-etc", "belongs to the system"),
        ("~/link-to-drive", "is not a disk of this box"),
        ("~/link-to-home", "holds far more"),
    ],
)
def test_places_that_may_not_be_kept(tmp_path: Path, text: str, words: str) -> None:
    """A restore writes there, and a save reads there, so neither the system nor keys nor our own files are meant."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "link-to-etc").symlink_to("/etc")
    (home / "link-to-drive").symlink_to(home / "drive" / "MyDrive")
    (home / "link-to-home").symlink_to(home)
    declared = text.format(home=home, parent=home.parent)
    with pytest.raises(Misdeclared, match=words) as caught:
        where(home, declared, own=(home / "layers",), variables={"RELATIVE": "here", "ITSELF": "$ITSELF"})
    assert str(caught.value).startswith(f"drivefs-agent.toml declares {declared!r}, but ")


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("~/data", "~/data/", "the same directory as"),
        ("$HF_HOME", "~/.cache/huggingface", "the same directory as"),
        ("~/data", "~/data/inner", "lies in the other"),
        ("~/data/inner", "~/data", "lies in the other"),
        ("~/data", "~/link", "the same directory as"),
    ],
)
def test_a_directory_is_declared_once(tmp_path: Path, one: str, other: str, words: str) -> None:
    """Twice the same, in any spelling, or one within the other, would be saved twice and restored over itself."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(Misdeclared, match=words):
        where(tmp_path, one, other)


def test_keys_only_where_they_are_asked_for(tmp_path: Path) -> None:
    """~/.ssh has a switch of its own."""
    assert where(tmp_path, ssh=True) == (Declared("ssh", tmp_path / ".ssh", "~/.ssh"),)
    assert where(tmp_path) == ()


def test_a_container_whose_root_is_fuse_can_keep_folders(tmp_path: Path) -> None:
    """Rootless containers have such a root, and it is a disk like any other."""
    for fstype in ("fuse.fuse-overlayfs", "fuse"):
        mounts = [Mount("/", "overlay", fstype)]
        assert len(places(Extras(("~/data",)), environment={"HOME": str(tmp_path)}, mounts=mounts)) == 1


# -- apt ---------------------------------------------------------------------------------------------------------------


def apt(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "apt-mark"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_apts_list_is_sorted_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One order, so that equal lists are equal texts; what is no package's name does not get in."""
    apt(tmp_path, 'test "$1" = showmanual && printf "vim\\nffmpeg\\nlibc6:i386\\nvim\\n--evil\\n"', monkeypatch)
    assert apt_packages() == ("ffmpeg", "libc6:i386", "vim")


def test_apt_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list would say that all was removed."""
    apt(tmp_path, "exit 100", monkeypatch)
    with pytest.raises(Misdeclared, match=r"apt-mark does not say .* use apt = false"):
        apt_packages()


def test_a_box_without_apt_has_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other distributions simply have none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt_packages() == ()
