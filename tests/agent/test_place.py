"""Where a process runs, told by what lies about in fake roots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from drivefs_agent.place import Place, read_place
from tests.agent.boxes import write

GUEST = "flags\t\t: fpu hypervisor\n"
METAL = "flags\t\t: fpu vmx\n"


def look(root: Path, files: Mapping[str, str], environment: Mapping[str, str] | None = None) -> Place:
    for name, text in files.items():
        write(root, name, text)
    return read_place(root, environment or {})


def test_no_sign_of_anything(tmp_path: Path) -> None:
    """An empty root is neither virtual nor a container nor a cloud, and nothing is claimed."""
    assert look(tmp_path, {}) == Place(evidence={})


@pytest.mark.parametrize(
    ("files", "virtualization"),
    [
        ({"proc/sys/kernel/osrelease": "5.15.1-microsoft-standard-WSL2", "proc/cpuinfo": GUEST}, "wsl"),
        ({"sys/class/dmi/id/sys_vendor": "QEMU", "proc/cpuinfo": GUEST}, "kvm"),
        ({"sys/class/dmi/id/sys_vendor": "VMware, Inc.", "proc/cpuinfo": GUEST}, "vmware"),
        (
            {
                "sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
                "sys/class/dmi/id/product_name": "Virtual Machine",
                "proc/cpuinfo": GUEST,
            },
            "hyperv",
        ),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation", "sys/class/dmi/id/product_name": "Surface"}, None),
        ({"sys/hypervisor/type": "xen", "proc/cpuinfo": GUEST}, "xen"),
        ({"sys/firmware/devicetree/base/hypervisor/compatible": "linux,kvm\0"}, "kvm"),
        ({"proc/cpuinfo": GUEST}, "vm"),
        ({"proc/cpuinfo": METAL}, None),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "proc/cpuinfo": METAL}, None),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "g5g.metal"}, None),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "g5g.xlarge"}, "kvm"),
    ],
)
def test_virtual_machines(tmp_path: Path, files: Mapping[str, str], virtualization: str | None) -> None:
    """By the firmware's names, the kernel's, or at least the processor's flag; a cloud's bare metal is no virtual machine."""
    assert look(tmp_path, files).virtualization == virtualization


@pytest.mark.parametrize(
    ("files", "environment", "container"),
    [
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": "", ".dockerenv": ""}, {}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"APPTAINER_CONTAINER": "/x.sif"}, "apptainer"),
        ({"run/systemd/container": "lxc"}, {}, "lxc"),
        ({}, {"container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"proc/self/cgroup": "4:memory:/docker/0123\n"}, {}, "docker"),
        ({"proc/self/cgroup": "0::/\n", "proc/1/cgroup": "0::/kubepods.slice/x\n"}, {}, "kubernetes"),
        ({"proc/self/mounts": "overlay / overlay rw 0 0\n"}, {}, "container"),
        ({"proc/self/mounts": "/dev/vda / ext4 rw 0 0\noverlay /x overlay rw 0 0\n"}, {}, None),
    ],
)
def test_containers(tmp_path: Path, files: Mapping[str, str], environment: Mapping[str, str], container: str | None) -> None:
    """By their marks, their variables, their groups, or at least by a root made of layers."""
    assert look(tmp_path, files, environment).container == container


@pytest.mark.parametrize(
    ("files", "environment", "cloud"),
    [
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2"}, {}, "aws"),
        ({"sys/class/dmi/id/product_name": "Google Compute Engine"}, {}, "gcp"),
        ({"sys/class/dmi/id/sys_vendor": "Google", "sys/class/dmi/id/product_name": "Eve"}, {}, None),
        ({"sys/class/dmi/id/chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, {}, "azure"),
        ({"sys/class/dmi/id/chassis_asset_tag": "OracleCloud.com"}, {}, "oracle"),
        ({"sys/hypervisor/uuid": "ec2e1916-9099-7caf-fd21-012345abcdef"}, {}, "aws"),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2"}, {"COLAB_RELEASE_TAG": "release"}, "colab"),
        ({}, {"VAST_CONTAINERLABEL": "C.1"}, "vast.ai"),
    ],
)
def test_clouds(tmp_path: Path, files: Mapping[str, str], environment: Mapping[str, str], cloud: str | None) -> None:
    """The provider nearest to the user comes first: a notebook service's variable before the cloud beneath it."""
    assert look(tmp_path, files, environment).cloud == cloud


def test_every_answer_names_its_evidence(tmp_path: Path) -> None:
    """Whoever doubts an answer can look where it was read."""
    files = {"sys/class/dmi/id/sys_vendor": "QEMU", "proc/cpuinfo": GUEST, ".dockerenv": ""}
    place = look(tmp_path, files, {"RUNPOD_POD_ID": "x"})
    assert place.evidence == {"virtualization": "/sys/class/dmi/id", "container": "/.dockerenv", "cloud": "$RUNPOD_POD_ID"}


def test_the_product_is_not_named_twice(tmp_path: Path) -> None:
    """Some makers repeat their name in the product's."""
    files = {"sys/class/dmi/id/sys_vendor": "NVIDIA", "sys/class/dmi/id/product_name": "NVIDIA DGX Spark"}
    assert look(tmp_path, files).product == "NVIDIA DGX Spark"
