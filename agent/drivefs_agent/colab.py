"""The resource report in the words of Colab's own, so that what reads the one reads the other: same keys, units and nesting.

The values are truer in two ways. Memory is what this process can have, where Colab's is the host's even in a container; and
what a card does not tell is null for that card, where Colab then drops all cards.

Source: /api/colab/resources of https://github.com/googlecolab/colabtools
"""

from __future__ import annotations

from typing import Any

from drivefs_agent.gpu import Gpu
from drivefs_agent.inventory import Specs

__all__ = ["resources"]


def resources(specs: Specs) -> dict[str, Any]:
    """``kernels`` is there only where Jupyter kernels run, as in Colab. The first disk is the one that holds "/"."""
    memory: dict[str, Any] = {"totalBytes": specs.memory_total, "freeBytes": specs.memory_available}
    if specs.kernels:
        memory["kernels"] = [{"uuid": kernel.uuid, "usedBytes": kernel.used} for kernel in specs.kernels]
    return {"memory": memory, "disks": _disks(specs), "gpus": [_gpu(gpu) for gpu in specs.gpus.gpus if gpu.error is None]}


def _disks(specs: Specs) -> list[dict[str, Any]]:
    found = []
    for disk in specs.disks:
        # Drive's quota is no disk of the box, and neither is what lies in memory.
        if disk.total is not None and disk.kind not in ("memory", "fuse"):
            # Colab calls the disk that notebooks run on "kernel".
            label = "kernel" if disk.mountpoint == "/" else disk.mountpoint
            found.append({"filesystem": {"label": label, "totalBytes": disk.total, "usedBytes": disk.used}})
    return sorted(found, key=lambda entry: entry["filesystem"]["label"] != "kernel")


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "memoryUsedBytes": gpu.memory_used,
        "memoryTotalBytes": gpu.memory_total,
        "gpuUtilization": gpu.utilization,
        "memoryUtilization": gpu.memory_utilization,
        "everUsed": bool(gpu.memory_used),
    }
