"""What the documentation and the dashboard promise is what the agent has."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from drivefs_agent import cgroup, metrics
from drivefs_agent.activity import PROBES
from drivefs_agent.cli import main
from drivefs_agent.cli_session import _PROBES
from drivefs_agent.disks import Disk
from drivefs_agent.drive import DriveMount
from drivefs_agent.host import System
from drivefs_agent.nvml import Nvml, query
from tests.agent.boxes import GIB, make_specs
from tests.agent.fake_driver import FakeDriver, install

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "agent.md").read_text()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Of all metrics that a box can have which lacks nothing."""
    install(monkeypatch, FakeDriver(cards=1, slices=2, gpm=True))
    with Nvml() as nvml:
        nvml.report()  # a slice's load is the difference of two looks
        sliced = nvml.report()
    install(monkeypatch, FakeDriver(cards=1))
    whole = query()  # with MIG on a card tells no load of its own
    specs = make_specs(
        disks=(Disk("/", "x", "ext4", "local", 3, 2, 1),),
        drive=(DriveMount("/d", "me", 1, 2, 3.0, 4, 5),),
        limits=cgroup.Limits("2", GIB, 1.5, memory_used_bytes=5),
        system=System("box", "Debian", "Linux 6", 60, boot_time=1),
    )
    guard = {"hold_until": 1.0, "lease_end": 2.0, "report": {"age_seconds": 1.0, "idle_seconds": 1.0, "notice": None}}
    texts = [metrics.render(replace(specs, gpus=report), guard) for report in (sliced, whole)]
    return {name for text in texts for name in re.findall(r"^drivefs_agent_(\w+)", text, re.MULTILINE)}


def test_the_guide_names_all_metrics_and_no_others(names: set[str]) -> None:
    """The table of docs/agent.md is complete."""
    table = GUIDE[GUIDE.index("| name | labels |") : GUIDE.index("## The guard")]
    told = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")}
    assert told == names


def test_the_dashboard_shows_metrics_that_exist(names: set[str]) -> None:
    """Every expression of the dashboard, and of the guide's alert, is about a metric of ours."""
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += re.findall(r"expr: (.*)", GUIDE)
    used = {name for text in expressions for name in re.findall(r"drivefs_agent_(\w+)", text)}
    assert len(expressions) >= 12
    assert used <= names
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_guide_names_all_probes_and_commands() -> None:
    """Probes in their order, as the commands know them; every command that is named exists with its options."""
    table = GUIDE[GUIDE.index("| probe | keeps the box |") :]
    assert tuple(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:]) == PROBES == _PROBES
    for command in re.findall(r"`drivefs-agent (\w+)", GUIDE):
        assert command in main.commands, command
    options = "".join(CliRunner().invoke(main, [command, "--help"]).output for command in main.commands)
    for option in set(re.findall(r"`[^`\n]*?(--[a-z-]+)", GUIDE)):
        assert option in options, option
