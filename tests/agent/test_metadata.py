"""The clouds' metadata servers, played on loopback: what is asked, how, and what comes of silence."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from drivefs_agent import cli, metadata
from drivefs_agent.metadata import Endpoint, Instance, probe

Answers = Mapping[tuple[str, str], tuple[Mapping[str, str], str]]

EC2: Answers = {
    ("PUT", "/latest/api/token"): ({"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "secret"),
    ("GET", "/latest/meta-data/instance-type"): ({"X-aws-ec2-metadata-token": "secret"}, "p5.48xlarge"),
    ("GET", "/latest/meta-data/instance-id"): ({"X-aws-ec2-metadata-token": "secret"}, "i-0123"),
    ("GET", "/latest/meta-data/placement/availability-zone"): ({"X-aws-ec2-metadata-token": "secret"}, "us-east-1a"),
    ("GET", "/latest/meta-data/instance-life-cycle"): ({"X-aws-ec2-metadata-token": "secret"}, "spot"),
}
GCP_TEXT = json.dumps({
    "id": 42,
    "machineType": "projects/1/machineTypes/a3-highgpu-8g",
    "zone": "projects/1/zones/us-central1-a",
    "scheduling": {"preemptible": "FALSE"},
})  # fmt: skip
GCP: Answers = {("GET", "/computeMetadata/v1/instance/?recursive=true"): ({"Metadata-Flavor": "Google"}, GCP_TEXT)}
AZURE_TEXT = json.dumps({"vmSize": "Standard_ND96", "vmId": "v-1", "location": "westeurope", "zone": "2", "priority": "Spot"})
AZURE: Answers = {("GET", "/metadata/instance/compute?api-version=2021-02-01"): ({"Metadata": "true"}, AZURE_TEXT)}


@contextmanager
def server(answers: Answers) -> Iterator[str]:
    """Answers what it knows to who asks with the right headers, and 404 otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            headers, text = answers.get((self.command, self.path), ({"absent": "x"}, ""))
            known = all(self.headers.get(name) == value for name, value in headers.items())
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(text.encode() if known else b"")

        do_GET = do_PUT = answer  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "instance"),
    [
        (EC2, Instance("aws", "p5.48xlarge", "i-0123", "us-east-1a", True)),
        (GCP, Instance("gcp", "a3-highgpu-8g", "42", "us-central1-a", False)),
        (AZURE, Instance("azure", "Standard_ND96", "v-1", "westeurope-2", True)),
        ({}, None),
        ({("GET", "/computeMetadata/v1/instance/?recursive=true"): ({}, "<html>captive portal")}, None),
    ],
)
def test_each_cloud_in_its_own_manner(answers: Answers, instance: Instance | None) -> None:
    """With the token or header that each demands; a server that answers otherwise is none of them."""
    with server(answers) as url:
        assert probe(Endpoint(url)) == instance


def test_silence_costs_the_timeout_and_no_more() -> None:
    """A server that accepts and never answers, as a firewall does, holds nobody."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert probe(Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)) is None
        assert time.monotonic() - begun < 2


def test_an_address_that_cannot_be_meant() -> None:
    """Told in words, with one that can."""
    with pytest.raises(ValueError, match=r"no metadata server's address. Give one such as http://169"):
        Endpoint("metadata")


def test_the_network_is_used_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """``specs`` opens no connection to anywhere; --ask-cloud asks, and shows what was told."""
    asked = []

    def told(endpoint: Endpoint | None = None) -> Instance:
        asked.append(endpoint)
        return Instance("aws", "p5.48xlarge", preemptible=True)

    monkeypatch.setattr(metadata, "probe", told)
    assert CliRunner().invoke(cli.main, ["specs"]).exit_code == 0
    assert asked == []
    shown = CliRunner().invoke(cli.main, ["specs", "--ask-cloud"])
    assert "aws · p5.48xlarge · may be taken back" in shown.output
