"""An emulated Drive for pytest. Ask for it with ``pytest_plugins = ["drivefs.emulator.pytest_plugin"]`` or with pytest's ``-p``.

``drive_emulator`` is an empty Drive for each test; one server serves the whole session.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivefs.emulator import Running, running

__all__ = ["drive_emulator", "drive_emulator_arguments", "drive_emulator_server"]


@pytest.fixture(scope="session")
def drive_emulator_arguments() -> tuple[str, ...]:
    """Command-line arguments of the server. Override this fixture to give some."""
    return ()


@pytest.fixture(scope="session")
def drive_emulator_server(drive_emulator_arguments: tuple[str, ...]) -> Iterator[Running]:
    """The server of this session."""
    with running(*drive_emulator_arguments) as drive:
        yield drive


@pytest.fixture
def drive_emulator(drive_emulator_server: Running) -> Iterator[Running]:
    """An empty Drive. What a test sets, and the faults it asks for, end with it."""
    drive = drive_emulator_server
    drive.reset()
    before = drive.control("settings")
    yield drive
    drive.control("settings", before)
    drive.control("faults", method="DELETE")
