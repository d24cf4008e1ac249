"""What an answer means, and whether to ask again."""

from __future__ import annotations

import errno
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.base import errors
from drivefs.remote.retry import MAX_ATTEMPTS, classify, decide, parse_retry_after


def envelope(code: int, reason: str, **more: Any) -> bytes:
    entry = {"domain": "global", "reason": reason, "message": "m"}
    return json.dumps({"error": {"code": code, "message": "m", "errors": [entry], **more}}).encode()


@pytest.mark.parametrize(
    ("status", "reason", "kind", "number"),
    [
        (400, "invalid", errors.BadRequest, errno.EINVAL),
        (401, "authError", errors.SignInRefused, errno.EACCES),
        (403, "rateLimitExceeded", errors.RateLimited, errno.EIO),
        (403, "userRateLimitExceeded", errors.RateLimited, errno.EIO),
        (403, "RATE_LIMIT_EXCEEDED", errors.RateLimited, errno.EIO),
        (403, "storageQuotaExceeded", errors.DriveFull, errno.ENOSPC),
        (403, "insufficientFilePermissions", errors.AccessDenied, errno.EACCES),
        (403, "somethingNew", errors.AccessDenied, errno.EACCES),
        (403, "parentNotAFolder", errors.AccessDenied, errno.ENOTDIR),
        (403, "numChildrenInNonRootLimitExceeded", errors.AccessDenied, errno.EMLINK),
        (403, "myDriveHierarchyDepthLimitExceeded", errors.AccessDenied, errno.ELOOP),
        (403, "teamDrivesFolderMoveInNotSupported", errors.AccessDenied, errno.EXDEV),
        (403, "accessNotConfigured", errors.SignInRefused, errno.EACCES),
        (404, "notFound", errors.RemoteNotFound, errno.ENOENT),
        (409, "fileIdInUse", errors.IdInUse, errno.EEXIST),
        (409, "duplicate", errors.IdInUse, errno.EEXIST),
        (412, "conditionNotMet", errors.BadRequest, errno.EINVAL),
        (416, "requestedRangeNotSatisfiable", errors.RangeNotSatisfiable, errno.EIO),
        (429, "rateLimitExceeded", errors.RateLimited, errno.EIO),
        (403, "sharingRateLimitExceeded", errors.RateLimited, errno.EIO),
        (403, "UrlLeaseLimitExceeded", errors.RateLimited, errno.EIO),
        (403, "dailyLimitExceeded", errors.DailyLimit, errno.EIO),
        (403, "quotaExceeded", errors.DailyLimit, errno.EIO),
        (403, "downloadQuotaExceeded", errors.RemoteError, errno.EDQUOT),
        (403, "cannotDownloadAbusiveFile", errors.RemoteError, errno.EIO),
        (403, "fileNotDownloadable", errors.RemoteError, errno.EIO),
        (403, "fieldNotWritable", errors.BadRequest, errno.EINVAL),
        (403, "cannotAddParent", errors.AccessDenied, errno.EPERM),
        (403, "domainPolicy", errors.AccessDenied, errno.EACCES),
        (403, "appNotAuthorizedToFile", errors.AccessDenied, errno.EACCES),
        (403, "activeItemCreationLimitExceeded", errors.DriveFull, errno.ENOSPC),
        (403, "teamDriveFileLimitExceeded", errors.DriveFull, errno.ENOSPC),
        (403, "teamDriveHierarchyTooDeep", errors.AccessDenied, errno.ELOOP),
        (403, "teamDriveMembershipRequired", errors.AccessDenied, errno.EPERM),
        (408, "", errors.RemoteUnreachable, errno.ETIMEDOUT),
        (500, "internalError", errors.ServerFault, errno.EIO),
        (503, "backendError", errors.ServerFault, errno.EIO),
    ],
)
def test_drives_reasons_decide_the_error(status: int, reason: str, kind: type[errors.RemoteError], number: int) -> None:
    """Each documented reason becomes its own class with its errno, whatever other reasons share the status."""
    error = classify("files.get", status, {}, envelope(status, reason), 0.0)
    assert type(error) is kind
    assert (error.status, error.errno) == (status, number)


def test_only_the_sentence_tells_that_the_day_s_uploads_are_used_up() -> None:
    """750 GB a day are refused with throttling's reason: the exact sentence makes a DailyLimit, repeated all the same."""
    said = json.loads(envelope(403, "userRateLimitExceeded"))
    said["error"]["message"] = "User rate limit exceeded."
    error = classify("uploads.send", 403, {}, json.dumps(said).encode(), 0.0)
    assert type(error) is errors.DailyLimit
    assert decide(error, 0, True, random.Random(0)) is not None
    said["error"]["message"] = "User Rate Limit Exceeded. Rate of requests for user exceed configured project quota."
    assert type(classify("uploads.send", 403, {}, json.dumps(said).encode(), 0.0)) is errors.RateLimited


def test_details_tell_a_missing_scope_from_a_missing_right() -> None:
    """insufficientPermissions is said for both; only the newer details distinguish them, and only one is the sign-in's fault."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]
    scope = classify("files.get", 403, {}, envelope(403, "insufficientPermissions", details=details), 0.0)
    right = classify("files.get", 403, {}, envelope(403, "insufficientPermissions"), 0.0)
    assert type(scope) is errors.SignInRefused
    assert scope.reason == "accessTokenScopeInsufficient"
    assert type(right) is errors.AccessDenied


@pytest.mark.parametrize("body", [b"", b"<html><h1>Not Found</h1></html>", b'"text"', b"[]", b'{"error": "not an object"}'])
@pytest.mark.parametrize("status", [400, 403, 404, 409, 410])
def test_an_answer_that_is_not_drives_is_no_news_about_a_file(status: int, body: bytes) -> None:
    """A 404 page of a proxy must not look like a deleted file: it is trouble on the way."""
    assert type(classify("files.get", status, {}, body, 0.0)) is errors.ServerFault


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_html_from_the_front_end_is_a_server_fault(status: int) -> None:
    """5xx bodies are often HTML; such a fault may have come after the work was done."""
    error = classify("files.create", status, {}, b"<html>Bad Gateway</html>", 0.0)
    assert type(error) is errors.ServerFault
    assert error.may_have_applied


def test_a_session_refuses_in_plain_text() -> None:
    """The upload server's 400 is text, and means that our request was wrong."""
    error = classify("uploads.send", 400, {}, b"Failed to parse Content-Range header.", 0.0, json_errors=False)
    assert type(error) is errors.BadRequest


def test_every_error_says_what_and_what_next() -> None:
    """An error's text names the call and the status and, after the first sentence, the next step."""
    for status in (400, 401, 403, 404, 407, 408, 416, 429, 500):
        text = str(classify("files.get", status, {}, envelope(status, ""), 0.0))
        first, _, rest = text.partition("). ")
        assert first.startswith(f"files.get failed (HTTP {status}")
        assert rest.endswith(".")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    """Both forms of RFC 9110 are understood; nonsense is as if nothing was said."""
    assert parse_retry_after(value, now=10.0) == seconds


@given(st.integers(0, MAX_ATTEMPTS - 1), st.integers(0, 2**32), st.booleans())
def test_a_throttled_call_is_always_repeated(attempt: int, seed: int, idempotent: bool) -> None:
    """Rate limits mean that the work never began: repeat whatever it was, after at least 2^n and at most 33 seconds."""
    delay = decide(errors.RateLimited("x"), attempt, idempotent, random.Random(seed))
    assert delay is not None
    assert min(2.0**attempt, 32.0) <= delay <= min(2.0**attempt, 32.0) + 1.0


@given(
    st.integers(0, MAX_ATTEMPTS - 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([errors.ServerFault, errors.RemoteUnreachable]),
)
def test_an_ambiguous_failure_is_repeated_only_where_harmless(
    attempt: int, idempotent: bool, applied: bool, kind: type[errors.RemoteError]
) -> None:
    """After a fault that may have come too late, only what may happen twice is done again."""
    delay = decide(kind("x", may_have_applied=applied), attempt, idempotent, random.Random(0))
    assert (delay is not None) == (idempotent or not applied)


@pytest.mark.parametrize(
    "error",
    [
        errors.BadRequest("x"),
        errors.AccessDenied("x"),
        errors.DriveFull("x"),
        errors.RemoteNotFound("x"),
        errors.IdInUse("x"),
        errors.SignInRefused("x"),
        errors.SessionGone("x"),
        errors.RemoteError("x", reason="downloadQuotaExceeded"),
        errors.RateLimited("x", reason="dailyLimitExceeded"),
        errors.RateLimited("x", reason="quotaExceeded"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.reason}",
)
def test_what_asking_again_cannot_change_is_not_asked_again(error: errors.RemoteError) -> None:
    """Refusals, and allowances that come back tomorrow, are final."""
    assert decide(error, 0, True, random.Random(0)) is None


def test_attempts_end_and_retry_after_is_a_lower_bound() -> None:
    """After MAX_ATTEMPTS it is enough; before, the server's wish is honoured even beyond our own longest delay."""
    rng = random.Random(0)
    assert decide(errors.RateLimited("x"), MAX_ATTEMPTS, True, rng) is None
    assert decide(errors.RateLimited("x", retry_after=120.0), 0, True, rng) == 120.0
    late = decide(errors.RateLimited("x", retry_after=0.5), 3, True, rng)
    assert late is not None
    assert late >= 8.0
