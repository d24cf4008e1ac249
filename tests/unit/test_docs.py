"""The documents are held to the code: what they name exists, and what they list is complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from drivefs.base.errors import ExitCode
from drivefs.cli import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
CLAIM = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_a_document_names_exists() -> None:
    """A claim whose test was renamed or removed must not go on looking proved."""
    missing = [
        f"{document.name}: {path}::{name}"
        for document in DOCUMENTS
        for path, name in CLAIM.findall(document.read_text())
        if not (ROOT / path).exists() or name not in _tests_in(ROOT / path)
    ]
    assert missing == []


def test_every_claim_of_the_semantics_names_its_test() -> None:
    """Each row of docs/semantics.md ends with at least one test that executes it."""
    rows = [line for line in (ROOT / "docs/semantics.md").read_text().splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.startswith(("| claim", "| --"))]
    assert len(claims) > 20
    assert [row for row in claims if not CLAIM.search(row)] == []


def test_relative_links_lead_somewhere() -> None:
    """No document points to a file that is not there."""
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_readme_lists_every_command_and_exit_code() -> None:
    """What a person can type, and what a shell can get, is in the README."""
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^\| `drivefs (\w+)", text, re.MULTILINE))
    assert commands == set(cli.commands) - {"version"}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {int(code) for code in ExitCode}


@pytest.mark.parametrize("module", ["drivefs/jobs", "drivefs/store", "drivefs/vfs"])
def test_the_architecture_names_every_room(module: str) -> None:
    """docs/architecture.md knows each module of the three floors between the doors and the ground."""
    text = (ROOT / "docs/architecture.md").read_text()
    names = {path.stem for path in (ROOT / module).glob("*.py")} - {"__init__"}
    unknown = {name for name in names if f"{module.removeprefix('drivefs/')}/{name}.py" not in text}
    assert unknown == set()
