"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline in wall-clock time judges how busy the machine is, not the code; pytest-timeout ends what really hangs.
settings.register_profile("drivefs", deadline=None)
settings.load_profile("drivefs")
