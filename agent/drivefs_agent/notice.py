"""What a cloud says before it takes a machine back: two minutes ahead at AWS, half a minute at the others.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
https://cloud.google.com/compute/docs/instances/create-use-preemptible,
https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from drivefs_agent.metadata import Endpoint

__all__ = ["CLOUDS", "Notice", "Notices"]

_TOKEN_SECONDS: Final = 300
_AZURE_ENDS: Final = ("Preempt", "Terminate")


@dataclass(frozen=True, slots=True)
class Notice:
    """at: Unix time, where the cloud tells one. text: for people."""

    text: str
    at: float | None = None


class Notices:
    """Asks one cloud's metadata server. ``error``: why the last answer is none, or None where it was one."""

    def __init__(self, cloud: str, endpoint: Endpoint | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask: Callable[[], Notice | None] = {"aws": self._aws, "gcp": self._gcp, "azure": self._azure}[cloud]
        self._endpoint = endpoint or Endpoint()
        self._clock = clock
        self._token: tuple[str, float] | None = None
        self.error: str | None = None

    def poll(self) -> Notice | None:
        """What has been announced; None where nothing has, or nobody answers (see ``error``)."""
        self.error = None
        return self._ask()

    def _silent(self) -> None:
        self.error = "the cloud's metadata server does not answer, so a notice of the machine's end would not be seen"

    def _aws(self) -> Notice | None:
        """404 is "no notice", and looks like silence here; that the server lives is seen by the token, asked for now and then."""
        if self._token is None or self._clock() >= self._token[1]:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(2 * _TOKEN_SECONDS)}
            token = self._endpoint.ask("/latest/api/token", headers, "PUT")
            if token is None:
                self._token = None
                self._silent()
                return None
            self._token = token.strip(), self._clock() + _TOKEN_SECONDS
        told = self._endpoint.ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token[0]})
        action = _object(told)
        if "action" not in action:
            return None
        return Notice(f"AWS will {action['action']} this machine", _iso(action.get("time")))

    def _gcp(self) -> Notice | None:
        told = self._endpoint.ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        if told is None:
            self._silent()
        return Notice("Google Cloud is taking this machine back") if told is not None and told.strip() == "TRUE" else None

    def _azure(self) -> Notice | None:
        told = self._endpoint.ask("/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
        if told is None:
            self._silent()
        for event in _object(told).get("Events") or ():
            if isinstance(event, Mapping) and event.get("EventType") in _AZURE_ENDS:
                return Notice(f"Azure has announced: {event['EventType']}", _http_date(event.get("NotBefore")))
        return None


CLOUDS: Final = ("aws", "gcp", "azure")


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _iso(value: Any) -> float | None:
    """2017-09-18T08:22:00Z"""
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _http_date(value: Any) -> float | None:
    """Mon, 19 Sep 2016 18:29:47 GMT; empty where the event has begun already."""
    try:
        return email.utils.parsedate_to_datetime(str(value)).timestamp()
    except (ValueError, TypeError):
        return None
