"""Which saved parts a box can use, where the others can be had again, and how it is told. All of it is pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from drivefs_agent.packages.fit import Fit, fits, plan
from drivefs_agent.packages.model import Kind, Part, Target
from drivefs_agent.packages.origin import origin_of
from drivefs_agent.packages.protected import is_protected
from drivefs_agent.packages.recovery_texts import readme, requirements
from drivefs_agent.packages.report import Item, Report
from drivefs_agent.packages.tags import at_least, loadable
from tests.agent.packages.states import manifest, part

THEN = Target("cp", "3.11", "", "x86_64", "glibc-2.36", "12", {"torch": "2.6.0+cu124"})
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA = "ab" * 32


def here(**changed: Any) -> Target:
    return replace(THEN, **changed)


def wheel(name: str = "x", *tags: str, **changed: Any) -> Part:
    return replace(part(name), tags=tags, **changed)


PURE = wheel("pure", "py3-none-any")
OLD_PURE = wheel("pure", "py2-none-any", "py3-none-any")
COMPILED = wheel("compiled", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", native=True)
STABLE = wheel("stable", "cp39-abi3-manylinux_2_28_x86_64", native=True)
LATE_STABLE = wheel("stable", "cp311-abi3-manylinux_2_28_x86_64", native=True)
BINARY = wheel("binary", "py3-none-manylinux_2_17_x86_64", native=True)
LOCAL = wheel("local", "cp311-cp311-linux_x86_64", native=True)
LOCAL_STABLE = wheel("local", "cp38-abi3-linux_x86_64", native=True)
LATE_PURE = wheel("late", "py312-none-any")
UNTAGGED = wheel("untagged")
UNTAGGED_NATIVE = wheel("untagged", native=True)

CASES = [
    # the same Python
    ("the same box takes all", COMPILED, here(), Fit.AS_IT_IS),
    ("a newer C library takes what an older one built", LOCAL, here(libc="glibc-2.39"), Fit.AS_IT_IS),
    ("an older C library does not", LOCAL, here(libc="glibc-2.31"), Fit.ANEW),
    ("but what is published for older ones runs", COMPILED, here(libc="glibc-2.31"), Fit.AS_IT_IS),
    ("and only as old as it is published for", STABLE, here(libc="glibc-2.27"), Fit.ANEW),
    ("manylinux is not for musl", COMPILED, here(libc="musl-1.2"), Fit.ANEW),
    ("pure Python is", PURE, here(libc="musl-1.2"), Fit.AS_IT_IS),
    ("a library that nobody could tell is no older one", LOCAL, here(libc=""), Fit.ANEW),
    ("untagged and compiled, on an older library", UNTAGGED_NATIVE, here(libc="glibc-2.31"), Fit.ANEW),
    # another Python
    ("pure Python goes everywhere", PURE, here(minor="3.13"), Fit.AS_IT_IS),
    ("one fitting tag of several is enough", OLD_PURE, here(minor="3.13"), Fit.AS_IT_IS),
    ("compiled for one Python", COMPILED, here(minor="3.12"), Fit.ANEW),
    ("the stable interface goes to newer Pythons", STABLE, here(minor="3.12"), Fit.AS_IT_IS),
    ("and down to the one that it names", STABLE, here(minor="3.9"), Fit.AS_IT_IS),
    ("but not further", LATE_STABLE, here(minor="3.10"), Fit.ANEW),
    ("a program in a wheel asks for no Python", BINARY, here(minor="3.13"), Fit.AS_IT_IS),
    ("but for its processor", BINARY, here(machine="aarch64"), Fit.ANEW),
    ("built here, for the stable interface", LOCAL_STABLE, here(minor="3.13"), Fit.AS_IT_IS),
    ("the same on an older C library", LOCAL_STABLE, here(minor="3.13", libc="glibc-2.31"), Fit.ANEW),
    ("the same on another processor", LOCAL_STABLE, here(machine="aarch64"), Fit.ANEW),
    ("pure Python for newer Pythons only", LATE_PURE, here(minor="3.10"), Fit.ANEW),
    ("untagged and pure", UNTAGGED, here(minor="3.13"), Fit.AS_IT_IS),
    ("untagged and compiled", UNTAGGED_NATIVE, here(minor="3.13"), Fit.ANEW),
    ("without a lock there is another interface", COMPILED, here(abi="t"), Fit.ANEW),
    ("and no stable one", STABLE, here(minor="3.13", abi="t"), Fit.ANEW),
    ("pure Python does not mind", PURE, here(minor="3.13", abi="t"), Fit.AS_IT_IS),
    ("another implementation", COMPILED, here(implementation="pp"), Fit.ANEW),
    ("pure Python runs on another implementation", PURE, here(implementation="pp"), Fit.AS_IT_IS),
    ("a tag that is none fits nobody", wheel("x", "nonsense", "a-b-c-d", native=True), here(minor="3.12"), Fit.ANEW),
    # what is no distribution
    ("a directory is data", Part("dir/HF_HOME/hub", "", "0" * 64, Kind.DIRECTORY, native=True), here(minor="3.13"), Fit.AS_IT_IS),
    ("files of nobody without code", Part("_orphans", "", "0" * 64, Kind.ORPHANS), here(machine="aarch64"), Fit.AS_IT_IS),
    ("files of nobody with code", Part("_orphans", "", "0" * 64, Kind.ORPHANS, native=True), here(minor="3.12"), Fit.LEFT_OUT),
    ("they stay where they are at home", Part("_orphans", "", "0" * 64, Kind.ORPHANS, native=True), here(), Fit.AS_IT_IS),
    # another image
    ("pure Python above another torch", replace(PURE, needs=("torch",)), here(image={"torch": "2.7.0"}), Fit.AS_IT_IS),
    ("compiled against another torch", replace(COMPILED, needs=("torch",)), here(image={"torch": "2.7.0"}), Fit.ANEW),
    ("compiled against no torch", COMPILED, here(image={"torch": "2.7.0"}, cuda="13"), Fit.AS_IT_IS),
    ("the same torch for another CUDA", replace(COMPILED, needs=("torch",)), here(cuda="13"), Fit.ANEW),
    ("the same torch without CUDA", replace(COMPILED, needs=("torch",)), here(cuda=None), Fit.ANEW),
    ("another label of the same CUDA", replace(COMPILED, needs=("torch",)), here(image={"torch": "2.6.0+cu126"}), Fit.AS_IT_IS),
    ("no torch at all", replace(COMPILED, needs=("torch",)), here(image={}), Fit.LEFT_OUT),
    ("a need that nobody met", replace(COMPILED, needs=("jaxlib",)), here(), Fit.AS_IT_IS),
    # what cannot travel
    ("an editable one", wheel("mine", editable="/home/me/mine"), here(), Fit.LEFT_OUT),
    (
        "compiled from a local folder",
        replace(COMPILED, direct_url='{"url": "file:///home/me/x", "dir_info": {}}'),
        here(minor="3.12"),
        Fit.LEFT_OUT,
    ),
    (
        "the same where it fits",
        replace(COMPILED, direct_url='{"url": "file:///home/me/x", "dir_info": {}}'),
        here(),
        Fit.AS_IT_IS,
    ),
    (
        "compiled from a repository",
        replace(COMPILED, direct_url=json.dumps({"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}})),
        here(minor="3.12"),
        Fit.ANEW,
    ),
    (
        "a link to a wheel for one Python",
        replace(COMPILED, direct_url='{"url": "https://h/compiled-1.0-cp311-cp311-linux_x86_64.whl", "archive_info": {}}'),
        here(minor="3.12"),
        Fit.LEFT_OUT,
    ),
    (
        "a link to the sources",
        replace(COMPILED, direct_url='{"url": "https://h/compiled-1.0.tar.gz", "archive_info": {}}'),
        here(minor="3.12"),
        Fit.ANEW,
    ),
]


@pytest.mark.parametrize(("what", "one", "target", "action"), CASES, ids=[case[0] for case in CASES])
def test_what_becomes_of_a_part(what: str, one: Part, target: Target, action: str) -> None:
    """Each case of the rules; and whatever is not used as it is says why, in a sentence."""
    verdict = fits(one, THEN, target)
    assert verdict.action == action
    assert (". " in f"{verdict.reason} ") == (action != Fit.AS_IT_IS)


def test_the_images_own_torch_stays() -> None:
    """A torch of the layer gives way to one that the image did not have when the state was saved, and its name is said."""
    torch = wheel("torch", "cp311-cp311-manylinux_2_28_x86_64", native=True)
    verdict = fits(torch, here(image={}), here(image={"torch": "2.7.0"}))
    assert (verdict.action, verdict.reason) == (Fit.LEFT_OUT, "The image has its own torch 2.7.0, which stays.")
    assert fits(torch, here(image={}), here(image={})).action == Fit.AS_IT_IS


def test_a_torch_that_was_put_above_this_very_image_is_used() -> None:
    """Whoever installed another torch over the image's meant it, and finds it again on the next box of the same image."""
    torch = wheel("torch", "cp311-cp311-manylinux_2_28_x86_64", native=True)
    assert fits(torch, THEN, here()).action == Fit.AS_IT_IS
    assert fits(torch, THEN, here(image={"torch": "2.7.0"})).action == Fit.LEFT_OUT


def test_what_was_compiled_against_the_layers_own_torch() -> None:
    """It was made for the layer's torch, not the image's: it is used where that one comes along, and else it is made anew."""
    kernels = replace(COMPILED, needs=("torch",))
    own = {"torch": "2.8.0"}
    bare = here(image={}, cuda="12")
    assert fits(kernels, bare, bare, own).action == Fit.AS_IT_IS
    assert fits(kernels, bare, here(image={}, cuda="13"), own).action == Fit.AS_IT_IS
    assert fits(kernels, bare, here(image={"torch": "2.8.0"}, cuda="12"), own).action == Fit.AS_IT_IS
    assert fits(kernels, bare, here(image={"torch": "2.9.0"}, cuda="12"), own).action == Fit.ANEW


def test_unreleased_builds_are_told_apart_by_their_label() -> None:
    """Vendors' images carry torch 2.6.0a0+HASH, where the hash is all that tells two of them apart."""
    kernels = replace(COMPILED, needs=("torch",))
    then, now = here(image={"torch": "2.6.0a0+ecf3bae40a"}), here(image={"torch": "2.6.0a0+df5bbc09d1"})
    assert fits(kernels, then, now).action == Fit.ANEW
    assert fits(kernels, then, then).action == Fit.AS_IT_IS


def test_a_plan_takes_every_part_once() -> None:
    """Nothing is forgotten and nothing is done twice, and what comes anew is told with its reason."""
    parts = [PURE, COMPILED, STABLE, wheel("mine", editable="/home/me/mine")]
    made = plan(parts, THEN, here(minor="3.12"))
    assert [one.name for one in made.as_it_is] == ["pure", "stable"]
    assert [(each.part.name, each.reason) for each in made.anew] == [
        ("compiled", "It is compiled for cp311-x86_64, and this Python is cp312-x86_64.")
    ]
    assert [each.part.name for each in made.left_out] == ["mine"]
    assert made.notes == ()


def test_libraries_of_a_torch_that_stays_behind_stay_too() -> None:
    """CUDA's libraries are gigabytes: without the torch that they came with, only those that are asked for or needed are used."""
    nvidia = {"native": True}
    parts = [
        wheel("torch", needs=("nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-nvtx-cu12", "triton"), native=True),
        wheel("nvidia-cudnn-cu12", needs=("nvidia-cublas-cu12",), **nvidia),
        wheel("nvidia-cublas-cu12", **nvidia),
        wheel("nvidia-nvtx-cu12", requested=True, **nvidia),
        wheel("triton", native=True),
        wheel("kernels", "py3-none-any", needs=("triton", "torch")),
    ]
    made = plan(parts, here(image={}), here(image={"torch": "2.6.0"}))
    assert [one.name for one in made.as_it_is] == ["kernels", "nvidia-nvtx-cu12", "triton"]
    assert [each.part.name for each in made.left_out] == ["nvidia-cublas-cu12", "nvidia-cudnn-cu12", "torch"]
    assert made.left_out[1].reason == "Only torch needed it, and the image's own torch has what it needs."


def test_an_older_driver_is_told() -> None:
    """A torch in the layer brings its CUDA along, but not the driver that this needs."""
    torch = wheel("torch", native=True)
    note = plan([torch], here(image={}, cuda="13"), here(image={}, cuda="12")).notes
    assert len(note) == 1
    assert "torch was saved on a box for CUDA 13, and this one is for CUDA 12" in note[0]
    assert plan([torch], here(image={}, cuda="12"), here(image={}, cuda="13")).notes == ()
    assert plan([PURE], here(image={}, cuda="13"), here(image={}, cuda="12")).notes == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("glibc-2.36", "glibc-2.36", True),
        ("glibc-2.100", "glibc-2.36", True),
        ("glibc-2.4", "glibc-2.36", False),
        ("musl-1.2", "glibc-2.36", False),
        ("musl-1.2", "musl-1.1", True),
        ("", "", True),
        ("", "glibc-2.36", False),
    ],
)
def test_c_libraries_compare_by_number(ours: str, theirs: str, expected: bool) -> None:
    """2.100 is newer than 2.36, and two that cannot be told are the same only where they are spelt the same."""
    assert at_least(ours, theirs) is expected


def test_tags_are_those_that_pip_would_take() -> None:
    """For the Python that runs this, our platforms are those that the packaging library finds by asking it."""
    import platform
    import sys

    from packaging.tags import sys_tags

    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or sys.implementation.name != "cpython":
        pytest.skip("the comparison is for CPython on glibc")
    target = Target(
        "cp", f"3.{sys.version_info.minor}", "", platform.machine(), f"glibc-{platform.libc_ver()[1]}", image={}, cuda=None
    )
    assert all(loadable([str(tag)], target, local=True) for tag in sys_tags())
    newer = f"cp3{sys.version_info.minor}-cp3{sys.version_info.minor}-manylinux_2_99_{platform.machine()}"
    assert not loadable([newer], target, local=True)


def test_a_tag_of_absurd_length_is_not_multiplied_out() -> None:
    """A compressed tag stands for a product: one of thousands of pieces would be billions."""
    pieces = ".".join(["py3"] * 5000)
    assert not loadable([f"{pieces}-{pieces}-{pieces}"], THEN, local=True)


ORIGINS = [
    (None, "x==1.0"),
    ({"url": "https://h/o/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, f"x @ git+https://h/o/x.git@{COMMIT}"),
    (
        {"url": "ssh://git@h/o/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}, "subdirectory": "a b"},
        f"x @ git+ssh://git@h/o/x.git@{COMMIT}#subdirectory=a%20b",
    ),
    ({"url": "https://h/x-1.0.whl", "archive_info": {"hashes": {"sha256": SHA}}}, f"x @ https://h/x-1.0.whl#sha256={SHA}"),
    ({"url": "http://h/x-1.0.whl", "archive_info": {"hash": f"sha256={SHA}"}}, f"x @ http://h/x-1.0.whl#sha256={SHA}"),
    ({"url": "https://h/x.zip?a=1&b=2", "archive_info": {}}, "x @ https://h/x.zip?a=1&b=2"),
    ({"url": "https://me:secret@h/x.zip", "archive_info": {}}, "x @ https://h/x.zip"),
    ({"url": "https://${TOKEN}@h/x.zip", "archive_info": {}}, "x @ https://${TOKEN}@h/x.zip"),
]


@pytest.mark.parametrize(("direct", "expected"), ORIGINS)
def test_where_a_part_can_be_had(direct: dict[str, Any] | None, expected: str) -> None:
    """By version from an index, by commit from a repository, by link with its checksum; never with a password."""
    from packaging.requirements import Requirement

    origin = origin_of(replace(part("x"), direct_url=None if direct is None else json.dumps(direct)))
    assert (origin.requirement, origin.refusal) == (expected, "")
    assert Requirement(origin.requirement).name == "x"


REFUSED = {
    "a file": {"url": "file:///tmp/x.tar.gz", "archive_info": {}},
    "a folder": {"url": "file:///home/me/x", "dir_info": {}},
    "no scheme": {"url": "/home/me/x", "archive_info": {}},
    "plain http without a checksum": {"url": "http://h/x.whl", "archive_info": {}},
    "a branch": {"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "main"}},
    "a command as a repository": {"url": "ext::sh://h/x", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
    "an unknown system": {"url": "https://h/x", "vcs_info": {"vcs": "cvs", "commit_id": COMMIT}},
    "a way out of the archive": {"url": "https://h/x.zip", "archive_info": {}, "subdirectory": "../../etc"},
    "no object": ["https://h/x.zip"],
    "no URL": {},
}


@pytest.mark.parametrize("direct", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_again_says_so(direct: Any) -> None:
    """Nothing is built from files of another box, and nothing is fetched that the network could exchange."""
    origin = origin_of(replace(part("x"), direct_url=json.dumps(direct)))
    assert origin.requirement == ""
    assert origin.refusal.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "https://h/x\n--index-url https://evil/ y",
        "https://h/x --hash=sha256:00",
        'https://h/x ; extra == "a"',
        "https://h/x\r\ny==1",
    ],
)
def test_a_link_cannot_become_a_second_line_or_an_option(text: str) -> None:
    """A manifest may come from a stranger: what it says ends up in a requirements file, on one line, as one requirement."""
    origin = origin_of(replace(part("x"), direct_url=json.dumps({"url": text, "archive_info": {}})))
    assert "\n" not in origin.requirement
    assert "\r" not in origin.requirement
    assert origin.requirement == "" or len(origin.requirement.split(" ")) == 3


@pytest.mark.parametrize(
    ("name", "version"), [("x --pre", "1.0"), ("x", "1.0-"), ("x/y", "1.0"), ("x", "2023c-dev+_"), ("_x", "1")]
)
def test_a_name_that_no_index_has_is_refused(name: str, version: str) -> None:
    """What is no name or version of an index is not handed to an installer."""
    assert origin_of(replace(part("x"), name=name, version=version)).requirement == ""


def test_which_names_are_the_images() -> None:
    """The frameworks of one CUDA build and their libraries, in any spelling; not what merely begins like them."""
    assert all(
        map(is_protected, ["torch", "Torch_Vision".replace("_", ""), "nvidia_cublas_cu12", "jax-cuda12-plugin", "tensorflow"])
    )
    assert not any(map(is_protected, ["torchmetrics", "jaxtyping", "nvidia-ml-py", "tensorflow-datasets", "numpy"]))


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_report_lists_both_what_came_back_and_what_did_not() -> None:
    """Each list is counted, reasons are said once for all that share them, and the JSON holds everything."""
    reason = "It is compiled for cp311-x86_64, and this Python is cp312-x86_64."
    report = Report(
        states=("a",),
        saved_on="cp311-x86_64",
        here="cp312-x86_64",
        restored=tuple(Item(f"p{number}", "1") for number in range(15)),
        linked=(Item("six", "1.17"),),
        anew=(Item("numpy", "2.4.6", reason), Item("scipy", "1.17", reason)),
        left_out=(Item("mine", "0.1", "It was installed from its source."),),
        notes=("Something.",),
    )
    assert report.lines() == [
        "The state was saved on cp311-x86_64; this is cp312-x86_64.",
        "15 restored as saved: p0 1, p1 1, p2 1, p3 1, p4 1, p5 1, p6 1, p7 1, p8 1, p9 1, p10 1, p11 1 and 3 more",
        "1 already on this disk: six 1.17",
        "2 installed anew at the same version:",
        f"  numpy 2.4.6, scipy 1.17: {reason}",
        "1 left out:",
        "  mine 0.1: It was installed from its source.",
        "Note: Something.",
    ]
    found = json.loads(json.dumps(report.to_json()))
    assert len(found["restored"]) == 15
    assert found["anew"][0] == {"name": "numpy", "version": "2.4.6", "reason": reason}
    assert (found["complete"], report.complete, Report().complete) == (False, False, True)
    assert Report().lines() == ["The state is empty: nothing to restore."]


def test_requirements_are_for_people_and_for_pip() -> None:
    """What was asked for comes first; what pip cannot get is a comment that says why; equal states give equal texts."""
    state = manifest(
        replace(part("numpy", "2.4.6"), requested=True),
        part("six", "1.17.0"),
        replace(part("mine", "0.1"), editable="/home/me/mine"),
        replace(part("tool"), direct_url=json.dumps({"url": "https://h/t.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}})),
        part("torch", "2.13.0"),
        Part("_orphans", "", "0" * 64, Kind.ORPHANS),
    )
    state = replace(state, target=replace(state.target, image={"torch": "2.12.0"}), apt=("ffmpeg",))
    text = requirements(state)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == ["numpy==2.4.6", "six==1.17.0", f"tool @ git+https://h/t.git@{COMMIT}"]
    assert "For Python 3.11 on x86_64" in text
    assert "# The image had, and these packages use: torch 2.12.0\n" in text
    assert "# mine 0.1: It was installed from its source in /home/me/mine" in text
    assert "# torch==2.13.0  (the image had one of its own)" in text
    assert "# ffmpeg\n" in text
    later = replace(state, id=state.id.replace("box", "xob"), time=1.8e9, box="xob", parts=state.parts[::-1])
    assert requirements(later) == text


def test_requirements_hold_no_line_that_a_manifest_smuggled_in() -> None:
    """A comment stays a comment, whatever a stranger's manifest has for a path."""
    state = manifest(replace(part("mine"), editable="/x\n--index-url https://evil/\u2028six==1"))
    state = replace(state, apt=("ffmpeg\nevil==1",))
    assert all(line.startswith("#") or not line for line in requirements(state).splitlines())


def test_the_readme_says_where_it_lies_and_how_to_do_without_us() -> None:
    """It names the commands of both ways, and does not change while the store's place does not."""
    text = readme("MyDrive/Colab Notebooks/my_env")
    assert "MyDrive/Colab Notebooks/my_env" in text
    assert "tar --zstd -xf" in text
    assert "pip install --no-deps -r requirements.txt" in text
    assert "drivefs-agent packages restore" in text
    assert readme("MyDrive/Colab Notebooks/my_env") == text
