"""Tell the service manager how far we are. Source: sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

__all__ = ["sd_notify"]

logger = logging.getLogger(__name__)


def sd_notify(message: str) -> bool:
    """Send ``message`` (``READY=1``, ``STOPPING=1``, ``STATUS=...``). False where nobody asked for it, or it did not arrive."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            door.connect(address)
            door.sendall(message.encode())
    except OSError as error:
        logger.warning("the service manager could not be told %r: %s", message, error)
        return False
    return True
