"""The inventory as notebooks show it: a table with gauges. No script and no outside file; it suits a light and a dark page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from drivefs_agent import text
from drivefs_agent.inventory import Specs

__all__ = ["render"]

# currentColor and transparency take on whatever colours the notebook has.
_LABEL: Final = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;font-weight:600;white-space:nowrap"
_CELL: Final = "text-align:left;vertical-align:top;padding:2px 0"
_TRACK: Final = (
    "display:inline-block;width:120px;height:8px;margin:0 8px 0 0;border-radius:4px;background:rgba(128,128,128,.3);"
    "overflow:hidden;vertical-align:middle"
)
_BAR: Final = "display:block;height:8px;background:{colour};width:{percent}%"


def render(specs: Specs) -> str:
    """A fragment of HTML. Every name in it is escaped: mountpoints and programs are named by strangers."""
    rows = "".join(
        f'<tr><th scope="row" style="{_LABEL}">{escape(label)}</th>'
        f'<td style="{_CELL}">{_gauge(label, ratio)}{escape(line)}</td></tr>'
        for label, line, ratio in _rows(specs)
    )
    caption = f"{escape(specs.system.hostname)}, {specs.time:%Y-%m-%d %H:%M:%S} UTC"
    return (
        '<table style="border-collapse:collapse;font-size:13px"><caption style="text-align:left;opacity:.7">'
        f"{caption}</caption><tbody>{rows}</tbody></table>"
    )


def _rows(specs: Specs) -> Iterator[tuple[str, str, float | None]]:
    ratios = {"CPU": specs.cpu_utilization, "Memory": 1 - specs.memory_available / specs.memory_total}
    ratios.update((f"GPU {gpu.index}", gpu.memory_ratio) for gpu in specs.gpus.gpus)
    disks = iter(specs.disks)
    for label, line in text.lines(specs):
        if label == "Disk":
            disk = next(disks)
            yield label, line, disk.used / disk.total if disk.used is not None and disk.total else None
        else:
            yield label, line, ratios.get(label)


def _gauge(label: str, ratio: float | None) -> str:
    if ratio is None:
        return ""
    percent = round(min(max(ratio, 0.0), 1.0) * 100)
    bar = _BAR.format(colour="#d9534f" if percent >= 90 else "#4a90d9", percent=percent)
    return (
        f'<span role="meter" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'style="{_TRACK}"><span style="{bar}"></span></span>'
    )
