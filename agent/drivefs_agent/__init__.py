"""What this box is: GPUs, CPU, memory, disks, limits. Of drivefs it imports ``drivefs.client`` only.

import drivefs_agent
box = drivefs_agent.specs()           # in a notebook this shows as a table
box.gpus.gpus[0].memory_total         # bytes
box.to_json()                         # schema drivefs.specs/1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drivefs_agent.inventory import Specs

__all__ = ["__version__", "specs"]

__version__ = "0.1.0"


def specs() -> Specs:
    """The inventory of this box, now. Takes a tenth of a second; at most a second more where a mount does not answer."""
    from drivefs_agent.inventory import collect

    return collect()
