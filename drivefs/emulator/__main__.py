"""``python -m drivefs.emulator``."""

from __future__ import annotations

import sys

from drivefs.emulator.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
