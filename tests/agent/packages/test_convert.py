"""Packages come into a layer from a folder and from the image, go where they only hide the image's own, and leave as one file.

The first half calls the library on a layer of a real Python; the second half is a box with pip and the agent's commands.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from drivefs_agent.packages.convert import adopt, import_directory, prune_shadowed
from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.errors import Conflict, LayerUnusable, NothingFits, StoreDamaged
from drivefs_agent.packages.export import export
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import Layer, layer_for
from drivefs_agent.packages.model import Target
from drivefs_agent.packages.moving import Moved
from drivefs_agent.packages.save import Saver
from drivefs_agent.packages.scan import distributions
from drivefs_agent.packages.target import read_target
from tests.agent.packages.box import Box, record_problems
from tests.agent.packages.images import Image, Images
from tests.agent.packages.wheels import compiled, project, wheel

pytestmark = [pytest.mark.slow]

HELLO = "version = {version!r}\ndef main():\n    import sys\n    print('hello', version, 'from', sys.prefix)\n"
GONE = "/gone/with/the/box/bin/python3"


@pytest.fixture
def layer(image: Image, tmp_path: Path) -> Layer:
    """An empty one."""
    made = layer_for(ask(image.python), tmp_path / "layers")
    with made.locked(), made.new_generation() as generation:
        made.switch(generation)
    return made


@pytest.fixture
def here(layer: Layer) -> Target:
    return read_target(layer.interpreter)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``pip install --target`` is given."""
    return tmp_path / "my_env"


@pytest.fixture
def links(tmp_path: Path) -> Path:
    return tmp_path / "more-wheels"


def hello(links: Path, version: str) -> Path:
    """With a console script, another script, a file of data, and a module that other versions do not have."""
    return wheel(
        links,
        "hello",
        version,
        files={"hello/__init__.py": HELLO.format(version=version), f"hello/new_in_{version[:-2]}.py": ""},
        console={"hello": "hello:main"},
        data={"scripts/greet": "#!python\nimport hello\nhello.main()\n", "data/share/hello/x.txt": version},
    )


def put(site: Path, *wheels: Path) -> None:
    """Wheels of nothing but modules, as pip would put them there; much quicker."""
    for one in wheels:
        shutil.unpack_archive(one, site, "zip")
        info = "-".join(one.name.split("-")[:2]) + ".dist-info"
        (site / info / "INSTALLER").write_text("pip\n")
        with (site / info / "RECORD").open("a") as record:
            record.write(f"{info}/INSTALLER,,\n")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path.relative_to(folder)): _state(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _state(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


def titles(moved: Moved) -> list[str]:
    return [f"{part.name} {part.version}".rstrip() for part in moved.taken]


def reasons(moved: Moved) -> dict[str, str]:
    return {one.part.name: one.reason for one in moved.left}


# -- import ------------------------------------------------------------------------------------------------------------


def test_of_what_upgrades_left_the_newest_is_taken(layer: Layer, here: Target, folder: Path, links: Path) -> None:
    """pip install --target --upgrade leaves the older metadata; in a copy, whose times are anybody's guess, what holds counts."""
    put(folder, wheel(links, "many", "2.0"), wheel(links, "many", "10.0"))
    assert titles(import_directory(layer, folder, here)) == ["many 10.0"]
    for path in (folder / "many-2.0.dist-info").iterdir():
        os.utime(path, (2e9, 2e9))
    os.utime(folder / "many-10.0.dist-info" / "RECORD", (1e9, 1e9))
    (folder / "many.py").write_text("version = '10.0'\n")
    other = layer_for(layer.interpreter, layer.root.parent.with_name("others"))
    with other.locked(), other.new_generation() as generation:
        other.switch(generation)
    moved = import_directory(other, folder, here)
    assert (titles(moved), any("twice" in sentence for sentence in moved.warnings)) == (["many 10.0"], True)
    assert (distributions(other.site), record_problems(other.site)) == ({"many": "10.0"}, [])


def test_another_version_is_replaced_only_where_that_is_asked_for(layer: Layer, here: Target, folder: Path, links: Path) -> None:
    """The layer's stays, and the sentence names the option; with it no file of the other version is left."""
    put(folder, wheel(links, "pair", "1.0", files={"pair/one.py": ""}), wheel(links, "tiny"))
    put(layer.site, wheel(links, "pair", "2.0", files={"pair/two.py": ""}))
    layer.write_state({"a": "note"})
    moved = import_directory(layer, folder, here)
    assert (titles(moved), "--replace" in reasons(moved)["pair"]) == (["tiny 1.0"], True)
    assert distributions(layer.site) == {"pair": "2.0", "tiny": "1.0"}
    moved = import_directory(layer, folder, here, replacing=True)
    assert (titles(moved), [part.version for part in moved.gone]) == (["pair 1.0"], ["2.0"])
    assert [path.name for path in (layer.site / "pair").iterdir()] == ["one.py"]
    assert (distributions(layer.site), record_problems(layer.site)) == ({"pair": "1.0", "tiny": "1.0"}, [])
    assert layer.read_state() == {"a": "note"}, "the common past with the store goes along"
    generation = layer.generation()
    direct = f'{{"url": "file://{links}", "dir_info": {{"editable": true}}}}'
    put(layer.site, wheel(links, "mine", "2.0", files={"mine-2.0.dist-info/direct_url.json": direct}))
    put(folder, wheel(links, "mine", "1.0"))
    moved = import_directory(layer, folder, here, replacing=True)
    assert "pip uninstall mine" in reasons(moved).pop("mine")
    assert (moved.taken, reasons(moved)["tiny"]) == ((), "The layer has it already.")
    assert layer.generation() == generation


def test_what_cannot_run_here_is_named_and_left(layer: Layer, here: Target, folder: Path, links: Path, image: Image) -> None:
    """Compiled for another Python or for nobody knows which, built for the image, or in its source; the rest comes, and
    nothing else: neither modules nor metadata.
    """
    tag = f"cp{image.minor.replace('.', '')}"
    put(
        folder,
        wheel(links, "old", files={"_old.so": compiled()}, tag="cp36-cp36m-manylinux1_x86_64"),
        wheel(links, "fast", files={"_fast.so": compiled("one")}, tag=f"{tag}-{tag}-linux_{here.machine}"),
        wheel(links, "dark", files={"_dark.so": compiled()}),
        wheel(links, "torch", "2.1"),
        wheel(links, "tiny"),
    )
    (folder / "dark-1.0.dist-info" / "WHEEL").unlink()
    source = project(links / "source", "sourced")
    put(folder, *(source / "editable").glob("*.whl"))
    (folder / "sourced-1.0.dist-info" / "direct_url.json").write_text(
        f'{{"url": "file://{source}", "dir_info": {{"editable": true}}}}'
    )
    put(image.site, wheel(links, "torch", "2.4"))
    moved = import_directory(layer, folder, read_target(layer.interpreter))
    assert titles(moved) == ["fast 1.0", "tiny 1.0"]
    said = {
        "dark": "nothing says for which",
        "old": "made for cp36",
        "sourced": "pip install -e",
        "torch": "The image has its own",
    }
    assert {name: said[name] in reason for name, reason in reasons(moved).items()} == dict.fromkeys(said, True)
    assert (layer.site / "_fast.so").read_bytes() == compiled("one")
    assert distributions(layer.site) == {"fast": "1.0", "tiny": "1.0"}
    come = ("_fast.so", "fast-1.0.dist-info", "tiny.py", "tiny-1.0.dist-info")
    assert sorted(path.name for path in layer.site.iterdir()) == sorted(come)


def test_files_that_were_changed_or_lost_are_said(layer: Layer, here: Target, folder: Path, links: Path) -> None:
    """Also changes that neither size nor time tells, several at once. They come as they are."""
    put(folder, wheel(links, "pair", files={"one.py": "1", "two.py": "2", "three.py": "3"}), wheel(links, "tiny"))
    old = (folder / "pair-1.0.dist-info" / "RECORD").stat().st_mtime - 10
    for name in ("one.py", "two.py"):
        (folder / name).write_text("x")
        os.utime(folder / name, (old, old))
    (folder / "three.py").unlink()
    (folder / "tiny.py").write_text("version = 'longer'\n")
    moved = import_directory(layer, folder, here)
    said = "\n".join(moved.warnings)
    assert (titles(moved), [name for name in ("one.py", "two.py", "three.py", "tiny.py") if name not in said]) == (
        ["pair 1.0", "tiny 1.0"],
        [],
    )
    assert [(layer.site / name).read_text() for name in ("one.py", "two.py", "tiny.py")] == ["x", "x", "version = 'longer'\n"]
    assert sorted(record_problems(layer.site)) == [f"{name} is not what RECORD says" for name in ("one.py", "tiny.py", "two.py")]


def test_ones_own_files_of_the_layer_stay(layer: Layer, here: Target, folder: Path, links: Path) -> None:
    """Of what no package owns, the layer's is not replaced; and all of it can be left behind."""
    put(folder, wheel(links, "tiny"))
    for name in ("mine.py", "other.py", "same.py"):
        (folder / name).write_text("folder's")
    (layer.site / "mine.py").write_text("layer's")
    (layer.site / "same.py").write_text("folder's")
    import_directory(layer, folder, here, orphans=False)
    assert (distributions(layer.site), (layer.site / "other.py").exists()) == ({"tiny": "1.0"}, False)
    moved = import_directory(layer, folder, here)
    assert (titles(moved), [sentence for sentence in moved.warnings if "mine.py" in sentence]) == (
        ["_orphans"],
        ["The layer has other files of these names, which stay: mine.py."],
    )
    assert [(layer.site / name).read_text() for name in ("mine.py", "other.py")] == ["layer's", "folder's"]
    assert import_directory(layer, folder, here).taken == ()


def test_what_is_no_such_folder_is_said(layer: Layer, here: Target, tmp_path: Path, links: Path) -> None:
    """The layer is what it was."""
    generation = layer.generation()
    with pytest.raises(NothingFits, match="pip install --target"):
        import_directory(layer, tmp_path / "nowhere", here)
    put(layer.site, wheel(links, "tiny"))
    with pytest.raises(Conflict, match="the layer itself"):
        import_directory(layer, layer.site, here)
    assert layer.generation() == generation


def test_pip_at_work_meanwhile_loses_nothing(
    layer: Layer, here: Target, folder: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it installs into the layer while the next generation is made would be left behind: so nothing is switched."""
    put(folder, wheel(links, "tiny"))
    late = wheel(links, "late")
    monkeypatch.setattr("drivefs_agent.packages.moving._land", lambda *_: put(layer.site, late))
    generation = layer.generation()
    with pytest.raises(Conflict, match="meanwhile"):
        import_directory(layer, folder, here)
    assert (layer.generation(), distributions(layer.site)) == (generation, {"late": "1.0"})
    assert list((layer.root / "generations").iterdir()) == [generation]


# -- adopt and prune ---------------------------------------------------------------------------------------------------


def test_by_name_anything_of_the_image_is_adopted(layer: Layer, here: Target, image: Image, links: Path) -> None:
    """Also where nobody knows what was there first; but not what is built for the image, nor what it does not have."""
    put(image.site, wheel(links, "tiny"), wheel(links, "torch", "2.4"))
    with pytest.raises(LayerUnusable, match="enable"):
        adopt(layer, here)
    for names, said in ((["Torch"], "stays the image's"), (["tiny", "nothing_like_it"], "does not have nothing-like-it")):
        with pytest.raises(Conflict, match=said):
            adopt(layer, here, names)
    assert titles(adopt(layer, here, ["Tiny"])) == ["tiny 1.0"]
    assert (distributions(layer.site), record_problems(layer.site)) == ({"tiny": "1.0"}, [])
    layer.write_image({"distributions": {"tiny": "0.9", "pip": distributions(image.site)["pip"]}})
    moved = adopt(layer, here)
    assert (moved.taken, sorted(reasons(moved))) == ((), ["tiny", "torch"])


def test_what_only_hides_the_images_own_goes(layer: Layer, image: Image, links: Path) -> None:
    """Not what is newer, as the pip that enable puts there; nor what was changed by hand, because the image has not got that."""
    (pip,) = image.site.glob("pip-*.dist-info")
    shutil.rmtree(pip)
    put(image.site, wheel(links, "pip", "22.0"))
    put(layer.site, wheel(links, "pip", "22.3"))
    put(layer.site, wheel(links, "same"), wheel(links, "older"), wheel(links, "newer", "10.0"), wheel(links, "patched"))
    put(image.site, wheel(links, "same"), wheel(links, "older", "1.0.1"), wheel(links, "newer", "9.0"), wheel(links, "patched"))
    (layer.site / "patched.py").write_text("version = 'patched'\n")
    generation = layer.generation()
    moved = prune_shadowed(layer, dry_run=True)
    assert (sorted(part.name for part in moved.gone), sorted(reasons(moved))) == (["older", "same"], ["patched"])
    assert layer.generation() == generation
    assert prune_shadowed(layer) == moved
    assert distributions(layer.site) == {"newer": "10.0", "patched": "1.0", "pip": "22.3"}
    assert prune_shadowed(layer).gone == ()


# -- export ------------------------------------------------------------------------------------------------------------


def test_an_export_is_whole_or_not_there(layer: Layer, here: Target, links: Path, tmp_path: Path) -> None:
    """What is there is not replaced unasked; an archive that is damaged or missing ends it, and the file is what it was."""
    put(layer.site, wheel(links, "tiny"))
    store = Store(DirectoryFolder(tmp_path / "store"))
    Saver(layer, store, here, box="box").save()
    file = tmp_path / "all.tar"
    file.write_text("mine")
    with pytest.raises(Conflict, match="--force"):
        export(store, here, file, box="box")
    with pytest.raises(Conflict, match="is no file"):
        export(store, here, Path("/dev/null"), force=True, box="box")
    (archive,) = (tmp_path / "store" / "objects").iterdir()
    whole = archive.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-5], whole + b"x"):
        archive.write_bytes(damaged)
        with pytest.raises(StoreDamaged, match=archive.name):
            export(store, here, file, force=True, box="box")
    archive.unlink()
    with pytest.raises(StoreDamaged, match=archive.name):
        export(store, here, file, force=True, box="box")
    assert (file.read_text(), [path.name for path in tmp_path.glob(".all*")]) == ("mine", [])
    archive.write_bytes(whole)
    (tmp_path / ".all.tar.drivefs-new-00000000").write_text("what a kill has left")
    done = export(store, here, file, force=True, box="box")
    assert (done.size, done.size > len(whole), file.stat().st_mode & 0o777) == (file.stat().st_size, True, 0o600)
    assert [path.name for path in tmp_path.glob(".all*")] == []
    with pytest.raises(NothingFits, match="ffffffffffff"):
        export(store, here, tmp_path / "other.tar", state="ffffffffffff", box="box")
    assert not (tmp_path / "other.tar").exists()


# -- a box -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(image: Image, tmp_path: Path) -> Box:
    """Enabled, with wheels at hand."""
    for version in ("1.0", "2.0"):
        hello(image.links, version)
    wheel(image.links, "tiny", "0.1")
    return Box(image, tmp_path / "box", tmp_path / "store" / "my_env").enable()


def outside(box: Box) -> dict[str, str]:
    """So that the image's own pip works on the image."""
    return {"DRIVEFS_LAYER": "0", "PIP_PYTHON": str(box.image.python)}


def run_script(box: Box, name: str) -> str:
    return box.image.run(box.current / "bin" / name, more=box.more)


def test_a_folder_of_packages_becomes_the_layers(box: Box, folder: Path) -> None:
    """Scripts run with the layer's Python whoever installed them, RECORD holds, the folder is as it was, pip can uninstall, and
    the state is saved. A store in the same folder is no package; only the save writes there.
    """
    box.image.run(box.image.python, "-m", "pip", "install", "--target", folder, "hello==1.0", "tiny", more=outside(box))
    hello_script, greet = folder / "bin" / "hello", folder / "bin" / "greet"
    body = hello_script.read_text().partition("\n")[2]
    hello_script.write_text(f"#!/bin/sh\n'''exec' \"{GONE.replace('the', 'the old')}\" \"$0\" \"$@\"\n' '''\n{body}")
    greet.write_text(greet.read_text().replace(str(box.image.python), GONE))
    (folder / "mine.py").write_text("who = 'me'\n")
    for name in ("objects", "envs"):
        (folder / name).mkdir()
        (folder / name / "strange.txt").write_text("x")
    for name in ("drivefs-agent.toml", ".hidden", "README.txt", "requirements.txt"):
        (folder / name).write_text("")
    before = contents(folder)
    said = box.packages("import", folder, more={"DRIVEFS_STORE": str(folder)})
    assert [line for line in ("hello 1.0", "tiny 0.1", "files that no package owns") if line not in said.splitlines()] == []
    after = contents(folder)
    assert {name for name in before if after.get(name) != before[name]} == {"README.txt", "requirements.txt"}
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"objects", "envs"}
    assert [path.name for path in box.site.iterdir() if path.name in ("objects", "envs", ".hidden", "README.txt")] == []
    assert (box.installed(), record_problems(box.site)) == ({"hello": "1.0", "tiny": "0.1"}, [])
    assert run_script(box, "hello") == run_script(box, "greet") == f"hello 1.0 from {box.current}\n"
    assert box.evaluate("__import__('mine').who") == "me"
    assert (box.site / "hello-1.0.dist-info" / "INSTALLER").read_text() == "pip\n"
    box.pip("uninstall", "--yes", "hello")
    owned = [box.current / "bin" / "hello", box.current / "bin" / "greet", box.site / "hello", box.current / "share" / "hello"]
    assert ([path for path in owned if path.exists()], box.installed()) == ([], {"tiny": "0.1"})


def test_a_kill_leaves_the_layer_old_or_new(box: Box, folder: Path, links: Path) -> None:
    """At five moments of an import: what the layer had is there and works, and the next import ends what was begun."""
    many = {f"big/m{number:03}.py": f"number = {number}\n" * 100 for number in range(800)}
    put(folder, wheel(links, "big", files=many))
    put(box.site, wheel(links, "tiny"))
    old, new = {"tiny": "1.0"}, {"tiny": "1.0", "big": "1.0"}
    chance = random.Random(6)
    outcomes = []
    for pause in (0.0, *(chance.uniform(0.0, 0.4) for _ in range(4))):
        process = box.start("packages", "import", "--no-save", folder)
        wait_for_a_generation(box, process)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        outcomes.append((box.installed(), record_problems(box.site)))
    assert [outcome for outcome in outcomes if outcome not in ((old, []), (new, []))] == []
    assert (old, []) in outcomes, "no kill was early enough to show anything"
    assert not Path(box.more["DRIVEFS_STORE"]).exists(), "nothing was to be saved"
    put(folder, wheel(links, "more"))
    new["more"] = "1.0"
    said = box.packages("import", folder, code=3, more={"DRIVEFS_STORE": "MyDrive/not-mounted"})
    assert [words for words in ("more 1.0", "No Drive is mounted") if words not in said] == [], "the layer changes all the same"
    assert (box.installed(), record_problems(box.site)) == (new, [])
    assert len(list((box.layer / "generations").iterdir())) <= 2


def wait_for_a_generation(box: Box, process: subprocess.Popen[str]) -> None:
    known = set((box.layer / "generations").iterdir())
    while process.poll() is None and set((box.layer / "generations").iterdir()) <= known:
        time.sleep(0.01)


def test_what_somebody_put_into_the_image_is_adopted_and_pruned(box: Box) -> None:
    """The image keeps it, and the command that is told removes it there. While it is there, the layer's only hides it."""
    box.image.run(box.image.python, "-m", "pip", "install", "hello==1.0", more=outside(box))
    said = box.packages("adopt")
    assert (said.splitlines()[0], "Saved 1 part" in said) == ("hello 1.0", True)
    assert (box.installed(), record_problems(box.site)) == ({"hello": "1.0"}, [])
    assert run_script(box, "greet") == run_script(box, "hello") == f"hello 1.0 from {box.current}\n"
    assert "--shadowed" in box.packages("prune", code=2)
    pruned = box.packages("prune", "--shadowed")
    assert (pruned.splitlines()[0], box.installed(), (box.current / "bin" / "hello").exists()) == ("hello 1.0", {}, False)
    assert (Path(box.more["DRIVEFS_STORE"]) / "requirements.txt").read_text().count("hello") == 0
    assert box.packages("adopt", "--no-save", "hello") == said.rpartition("Saved")[0]
    removal = next(line for line in said.splitlines() if line.startswith("The image has it still")).partition(": ")[2]
    box.image.run("sh", "-c", removal.replace("uninstall", "uninstall --yes"), more=box.more)
    assert (list(box.image.site.glob("hello*")), box.installed()) == ([], {"hello": "1.0"})


def test_an_export_is_a_store_after_tar(box: Box, images: Images, tmp_path: Path, links: Path) -> None:
    """On another box: tar and restore bring everything back. The file holds one state, and what that needs only."""
    store = Path(box.more["DRIVEFS_STORE"])
    put(box.site, wheel(links, "tiny", "0.1"))
    box.packages("save")
    box.pip("install", "hello==2.0")
    box.packages("save")
    (store / "drivefs-agent.toml").write_text("")
    said = box.packages("export", tmp_path / "all.tar")
    assert [words for words in ("Exported 2 parts", "packages restore", "my_env") if words not in said] == []
    carried = tmp_path / "carried"
    carried.mkdir()
    subprocess.run(["tar", "xf", tmp_path / "all.tar", "-C", carried], check=True, timeout=60)
    unpacked = carried / "my_env"
    found = sorted(path.name for path in unpacked.iterdir())
    assert found == ["README.txt", "drivefs-agent.toml", "envs", "objects", "requirements.txt"]
    assert len(list(unpacked.glob("envs/default/*/*.json"))) == 1
    assert "hello==2.0" in (unpacked / "requirements.txt").read_text()
    fresh = Box(images.make(tmp_path / "fresh"), tmp_path / "fresh" / "box", unpacked)
    fresh.restore()
    assert (fresh.installed(), record_problems(fresh.site)) == ({"hello": "2.0", "tiny": "0.1"}, [])
    first = sorted(store.glob("envs/default/*/*.json"))[0].name.partition(".")[0]
    box.packages("export", tmp_path / "first.tar", first[-12:])
    listing = subprocess.run(["tar", "tf", tmp_path / "first.tar"], check=True, timeout=60, capture_output=True, text=True)
    assert listing.stdout.count("my_env/objects/") == 2, "the folder and one archive"
