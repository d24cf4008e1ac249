"""``python -m drivefs``."""

from __future__ import annotations

from drivefs.cli import main

main()
