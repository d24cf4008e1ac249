"""Notices of preemption, from clouds played on loopback in the words of their documentation."""

from __future__ import annotations

import json
import socket

import pytest

from drivefs_agent.durations import parse
from drivefs_agent.metadata import Endpoint
from drivefs_agent.notice import Notice, Notices
from tests.agent.test_metadata import Answers, server

TOKEN: Answers = {("PUT", "/latest/api/token"): ({"X-aws-ec2-metadata-token-ttl-seconds": "600"}, "secret\n")}
ACTION = ("GET", "/latest/meta-data/spot/instance-action")
SECRET = {"X-aws-ec2-metadata-token": "secret"}
PREEMPTED = ("GET", "/computeMetadata/v1/instance/preempted")
GOOGLE = {"Metadata-Flavor": "Google"}
EVENTS = ("GET", "/metadata/scheduledevents?api-version=2020-07-01")
AZURE = {"Metadata": "true"}
TIME = 1_505_722_920.0  # 2017-09-18 08:22 UTC


def azure(*events: dict[str, str]) -> Answers:
    return {EVENTS: (AZURE, json.dumps({"DocumentIncarnation": 1, "Events": list(events)}))}


@pytest.mark.parametrize(
    ("cloud", "answers", "notice"),
    [
        ("aws", TOKEN, None),
        (
            "aws",
            {**TOKEN, ACTION: (SECRET, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}')},
            Notice("AWS will terminate this machine", TIME),
        ),
        ("aws", {**TOKEN, ACTION: (SECRET, '{"action": "stop", "time": "soon"}')}, Notice("AWS will stop this machine")),
        ("aws", {**TOKEN, ACTION: (SECRET, "<html>")}, None),
        ("gcp", {PREEMPTED: (GOOGLE, "FALSE")}, None),
        ("gcp", {PREEMPTED: (GOOGLE, "TRUE\n")}, Notice("Google Cloud is taking this machine back")),
        ("azure", azure(), None),
        ("azure", azure({"EventType": "Reboot"}), None),
        (
            "azure",
            azure({"EventType": "Freeze"}, {"EventType": "Preempt", "NotBefore": "Mon, 18 Sep 2017 08:22:00 GMT"}),
            Notice("Azure has announced: Preempt", TIME),
        ),
        ("azure", azure({"EventType": "Terminate", "NotBefore": ""}), Notice("Azure has announced: Terminate")),
    ],
)
def test_each_clouds_notice(cloud: str, answers: Answers, notice: Notice | None) -> None:
    """Asked with the header that each demands; the time is taken where one is told; other events are none."""
    with server(answers) as url:
        notices = Notices(cloud, Endpoint(url))
        assert (notices.poll(), notices.error) == (notice, None)


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_silent_server_is_an_error_and_no_notice(cloud: str) -> None:
    """Silence is told, because then no notice would be seen; once the server answers, the error is gone."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        notices = Notices(cloud, endpoint)
        assert notices.poll() is None
        assert "does not answer" in str(notices.error)
    with server({**TOKEN, PREEMPTED: (GOOGLE, "FALSE"), **azure()}) as url:
        notices._endpoint = Endpoint(url)
        assert (notices.poll(), notices.error) == (None, None)


def test_awss_token_is_kept_and_renewed() -> None:
    """One token for five minutes; when the server then is gone, that is noticed, though "no notice" looks the same."""
    now = 0.0
    with server(TOKEN) as url:
        notices = Notices("aws", Endpoint(url), clock=lambda: now)
        assert (notices.poll(), notices.error) == (None, None)
    notices.poll()
    assert notices.error is None, "a 404 and silence are not told apart until the token is due"
    now = 301.0
    notices.poll()
    assert notices.error is not None


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10800), ("1h30m", 5400), ("45s", 45), ("2d", 172800), ("0.5h", 1800), (" 1H ", 3600)]
)
def test_spans_of_time(text: str, seconds: float) -> None:
    """As people write them."""
    assert parse(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3 hours", "-3h", "3h later", "1e9h"])
def test_no_spans_of_time(text: str) -> None:
    """Never guessed at: a hold of 3 what?"""
    with pytest.raises(ValueError, match="is no span of time"):
        parse(text)
