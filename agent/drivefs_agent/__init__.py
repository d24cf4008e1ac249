"""What this box is: GPUs, CPU, memory, disks, limits. Of drivefs it imports ``drivefs.client`` only."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
