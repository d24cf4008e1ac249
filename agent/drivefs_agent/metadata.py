"""What a cloud's metadata server says of this machine. Asked only where the user wants it: it is the one thing here that uses
the network, and though its address is link-local, on a box without such a server somebody else could answer.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html,
https://cloud.google.com/compute/docs/metadata/querying-metadata,
https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["DEFAULT_ENDPOINT", "Endpoint", "Instance", "probe"]

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
_TIMEOUT: Final = 0.5
_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Instance:
    """cloud: "aws", "gcp" or "azure". preemptible: whether the provider may take the machine back; None: not told."""

    cloud: str
    type: str | None = None
    id: str | None = None
    zone: str | None = None
    preemptible: bool | None = None


class Endpoint:
    """A metadata server. Every request has its own connection and ends within ``timeout`` seconds of silence; no proxies."""

    def __init__(self, url: str = DEFAULT_ENDPOINT, timeout: float = _TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is no metadata server's address. Give one such as {DEFAULT_ENDPOINT}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout = timeout

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
        """The answer's text; None where there is no such server, or it knows no such thing. Redirects are not followed."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            body = response.read(_LARGEST)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body.decode("utf-8", "replace") if response.status == 200 else None


def probe(endpoint: Endpoint | None = None) -> Instance | None:
    """Ask in the manner of each cloud, all at a time; None where nobody answers as a cloud does."""
    endpoint = endpoint or Endpoint()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda ask: ask(endpoint), (_aws, _gcp, _azure)))
    return next((answer for answer in answers if answer is not None), None)


def _aws(endpoint: Endpoint) -> Instance | None:
    """Version 2 only: a token first, which keeps servers that merely forward requests from answering."""
    token = endpoint.ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    if token is None:
        return None
    headers = {"X-aws-ec2-metadata-token": token.strip()}
    kind = endpoint.ask("/latest/meta-data/instance-type", headers)
    if kind is None:
        return None
    life = endpoint.ask("/latest/meta-data/instance-life-cycle", headers)
    return Instance(
        cloud="aws",
        type=kind,
        id=endpoint.ask("/latest/meta-data/instance-id", headers),
        zone=endpoint.ask("/latest/meta-data/placement/availability-zone", headers),
        preemptible=None if life is None else life == "spot",
    )


def _gcp(endpoint: Endpoint) -> Instance | None:
    answer = _object(endpoint.ask("/computeMetadata/v1/instance/?recursive=true", {"Metadata-Flavor": "Google"}))
    if "machineType" not in answer:
        return None
    scheduling = answer.get("scheduling") or {}
    return Instance(
        cloud="gcp",
        # Both are paths: projects/1234/machineTypes/a3-highgpu-8g
        type=str(answer["machineType"]).rpartition("/")[2],
        id=str(answer["id"]) if "id" in answer else None,
        zone=str(answer["zone"]).rpartition("/")[2] if "zone" in answer else None,
        preemptible=scheduling["preemptible"] == "TRUE" if "preemptible" in scheduling else None,
    )


def _azure(endpoint: Endpoint) -> Instance | None:
    answer = _object(endpoint.ask("/metadata/instance/compute?api-version=2021-02-01", {"Metadata": "true"}))
    if "vmSize" not in answer:
        return None
    place = (str(answer[key]) for key in ("location", "zone") if answer.get(key))
    priority = answer.get("priority")
    return Instance(
        cloud="azure",
        type=str(answer["vmSize"]),
        id=answer.get("vmId"),
        zone="-".join(place) or None,
        preemptible=priority in ("Spot", "Low") if priority else None,
    )


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
