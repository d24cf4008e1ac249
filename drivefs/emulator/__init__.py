"""A Drive v3 server in its own process, reached by URL only. Nothing else in drivefs imports it.

with drivefs.emulator.running() as drive:
    ...  # drive.url, drive.tree(), drive.reset()
"""

from drivefs.emulator.process import Running, running

__all__ = ["Running", "running"]
