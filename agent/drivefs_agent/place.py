"""What kind of place this process runs in: bare metal or a virtual machine, which container, whose cloud.

Found by what lies about in /proc, /sys and the environment; nothing is asked over the network (see ``metadata`` for that).
Each answer comes with the evidence it rests on, because all of it can be faked or be missing. None: no sign of any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs_agent.procfs import read

__all__ = ["CLOUD_VARIABLES", "CONTAINER_VARIABLES", "Place", "read_place"]


@dataclass(frozen=True, slots=True)
class Place:
    """virtualization: "kvm", "vmware", "xen", "hyperv", "wsl", ..., or "vm" where only that much is known.

    container: "docker", "podman", "kubernetes", "lxc", ..., or "container".  cloud: "aws", "gcp", "azure", "runpod", "colab", ...
    product: what the machine's firmware calls it ("DGX Spark").  evidence: for each answer that is not None, where it was read.
    """

    virtualization: str | None = None
    container: str | None = None
    cloud: str | None = None
    product: str | None = None
    evidence: Mapping[str, str] | None = None


# What DMI says of the vendor and the product, in lower case, and which virtual machine that means.
_MACHINES: Final = (
    ("qemu", "kvm"), ("kvm", "kvm"), ("rhev", "kvm"), ("openstack", "kvm"), ("google compute engine", "kvm"),
    ("amazon ec2", "kvm"), ("digitalocean", "kvm"), ("hetzner", "kvm"), ("vmware", "vmware"), ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"), ("xen", "xen"), ("microsoft corporation virtual machine", "hyperv"), ("parallels", "parallels"),
    ("bochs", "bochs"), ("apple virtualization", "apple"), ("cloud hypervisor", "kvm"), ("firecracker", "kvm"),
)  # fmt: skip
_CLOUDS: Final = (
    ("amazon ec2", "aws"), ("google compute engine", "gcp"), ("digitalocean", "digitalocean"), ("hetzner", "hetzner"),
    ("vultr", "vultr"), ("alibaba cloud", "alibaba"), ("oraclecloud", "oracle"), ("scaleway", "scaleway"), ("ovh", "ovh"),
    ("linode", "linode"), ("akamai", "linode"), ("nebius", "nebius"), ("openstack", "openstack"),
    # Azure marks its machines by this asset tag alone: other Hyper-V machines have the same vendor.
    ("7783-7084-3265-9085-8269-3286-77", "azure"),
)  # fmt: skip
# Variables that a provider sets in every container or notebook it starts.
CLOUD_VARIABLES: Final = (
    ("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle"), ("RUNPOD_POD_ID", "runpod"),
    ("VAST_CONTAINERLABEL", "vast.ai"), ("PAPERSPACE_NOTEBOOK_REPO_ID", "paperspace"), ("LIGHTNING_CLOUD_SPACE_ID", "lightning"),
    ("MODAL_TASK_ID", "modal"), ("SAGEMAKER_INTERNAL_IMAGE_URI", "aws"), ("CODESPACES", "codespaces"),
)  # fmt: skip
CONTAINER_VARIABLES: Final = (
    ("KUBERNETES_SERVICE_HOST", "kubernetes"), ("SINGULARITY_CONTAINER", "singularity"), ("APPTAINER_CONTAINER", "apptainer"),
    ("FLATPAK_ID", "flatpak"),
)  # fmt: skip
_CONTAINER_GROUPS: Final = (
    (re.compile(r"kubepods"), "kubernetes"),
    (re.compile(r"/docker[/-]"), "docker"),
    (re.compile(r"libpod"), "podman"),
    (re.compile(r"/lxc[./]|lxc\.payload"), "lxc"),
    (re.compile(r"containerd"), "containerd"),
)


def read_place(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Place:
    """Look once. ``root``: where /proc, /sys, /run and the marks of containers are looked for."""
    found = {
        "virtualization": next(_virtualization(root), None),
        "container": next(_container(root, environment), None),
        "cloud": next(_cloud(root, environment), None),
    }
    answers = {name: pair[0] for name, pair in found.items() if pair is not None}
    evidence = {name: pair[1] for name, pair in found.items() if pair is not None}
    return Place(**answers, product=_product(root), evidence=evidence)


def _dmi(root: Path) -> Iterator[tuple[str, str]]:
    for name in ("sys_vendor", "product_name", "board_vendor", "chassis_vendor", "chassis_asset_tag", "bios_vendor"):
        if text := read(root / "sys/class/dmi/id" / name):
            yield f"/sys/class/dmi/id/{name}", text


def _product(root: Path) -> str | None:
    directory = root / "sys/class/dmi/id"
    vendor, name = read(directory / "sys_vendor"), read(directory / "product_name")
    if vendor and name and name.lower().startswith(vendor.lower()):
        return name
    return " ".join(part for part in (vendor, name) if part) or read(root / "sys/firmware/devicetree/base/model")


def _virtualization(root: Path) -> Iterator[tuple[str, str]]:
    kernel = (read(root / "proc/sys/kernel/osrelease") or "").lower()
    if "microsoft" in kernel and ("wsl" in kernel or (root / "run/WSL").exists() or "microsoft-standard" in kernel):
        yield "wsl", "/proc/sys/kernel/osrelease"
    yield from _by_firmware(root)
    if kind := read(root / "sys/hypervisor/type"):
        yield kind, "/sys/hypervisor/type"
    if compatible := read(root / "sys/firmware/devicetree/base/hypervisor/compatible"):
        yield compatible.split("\0")[0].removeprefix("linux,"), "/sys/firmware/devicetree/base/hypervisor/compatible"
    if _has_hypervisor(root):
        yield "vm", "/proc/cpuinfo"


def _by_firmware(root: Path) -> Iterator[tuple[str, str]]:
    """Amazon's and Google's bare metal has the same vendor as their virtual machines, but no hypervisor beneath it."""
    product = read(root / "sys/class/dmi/id/product_name") or ""
    if product.endswith(".metal") or _has_hypervisor(root) is False:
        return
    vendor = read(root / "sys/class/dmi/id/sys_vendor") or ""
    for path, text in (("/sys/class/dmi/id", f"{vendor} {product}"), *_dmi(root)):
        for mark, machine in _MACHINES:
            if mark in text.lower():
                yield machine, path


def _has_hypervisor(root: Path) -> bool | None:
    """Whether the processor says that it is lent by a hypervisor; None where it does not say, as on Arm."""
    flags = re.search(r"^flags\s*:(.*)$", read(root / "proc/cpuinfo") or "", re.MULTILINE)
    return None if flags is None else "hypervisor" in flags[1].split()


def _container(root: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, kind in CONTAINER_VARIABLES:
        if environment.get(variable):
            yield kind, f"${variable}"
    for path, kind in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / path).exists():
            yield kind, f"/{path}"
    if named := read(root / "run/systemd/container") or environment.get("container"):
        yield named, "/run/systemd/container" if (root / "run/systemd/container").exists() else "$container"
    for path in ("proc/self/cgroup", "proc/1/cgroup"):
        groups = read(root / path) or ""
        for pattern, kind in _CONTAINER_GROUPS:
            if pattern.search(groups):
                yield kind, f"/{path}"
    for line in (read(root / "proc/self/mounts") or "").splitlines():
        if line.split()[1:3] == ["/", "overlay"]:
            yield "container", "/proc/self/mounts"


def _cloud(root: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, cloud in CLOUD_VARIABLES:
        if environment.get(variable):
            yield cloud, f"${variable}"
    for path, text in _dmi(root):
        for mark, cloud in _CLOUDS:
            if mark in text.lower():
                yield cloud, path
    # Xen machines of Amazon's have no DMI of its own; their uuid begins so.
    if (read(root / "sys/hypervisor/uuid") or "").lower().startswith("ec2"):
        yield "aws", "/sys/hypervisor/uuid"
