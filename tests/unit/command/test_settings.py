"""Whose Drive is mounted, decided from flags and environment, and the Config that comes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drivefs.base.config import GOOGLE_API_ROOT
from drivefs.base.errors import UsageError
from drivefs.settings import Account, Flags, build_config, choose_account

ROOT = "http://127.0.0.1:8080"
TOKEN = {"DRIVEFS_ACCESS_TOKEN": "t"}
ENV_ROOT = {"DRIVEFS_API_ROOT": ROOT + "/"}


def choose(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Account:
    return choose_account(Flags(mountpoint="/m", **flags), environment)


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ({}, {}, Account(embedded=True, by_default=True)),
        ({}, {"DRIVEFS_ACCESS_TOKEN": "", "DRIVEFS_API_ROOT": ""}, Account(embedded=True, by_default=True)),
        ({"embedded": True}, {}, Account(embedded=True)),
        ({"embedded": True}, {**TOKEN, **ENV_ROOT}, Account(embedded=True)),
        ({}, TOKEN, Account(token="t")),
        ({}, {**TOKEN, **ENV_ROOT}, Account(api_root=ROOT, token="t")),
        ({"api_root": ROOT}, TOKEN, Account(api_root=ROOT, token="t")),
        ({"api_root": "https://other"}, {**TOKEN, **ENV_ROOT}, Account(api_root="https://other", token="t")),
        ({"credentials": "/k"}, {}, Account(credentials=Path("/k"))),
        ({"credentials": "/k"}, TOKEN, Account(credentials=Path("/k"))),
        ({"credentials": "/k", "api_root": ROOT}, {}, Account(api_root=ROOT, credentials=Path("/k"))),
        ({"credentials": "/k"}, ENV_ROOT, Account(api_root=ROOT, credentials=Path("/k"))),
    ],
)
def test_the_account_is_the_one_that_was_meant(flags: dict[str, Any], environment: dict[str, str], expected: Account) -> None:
    """Flags beat the environment, one source is used, and the embedded Drive is chosen silently only when asked for."""
    assert choose(flags, environment) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        ({"embedded": True, "api_root": ROOT}, TOKEN, "--embedded and --api-root name different Drives"),
        ({"embedded": True, "credentials": "/k"}, {}, "--embedded and --credentials name different Drives"),
        ({"api_root": ROOT}, {}, "needs an access token. Put it into the environment as DRIVEFS_ACCESS_TOKEN"),
        ({}, ENV_ROOT, "needs an access token"),
        ({"api_root": ""}, TOKEN, "--api-root is empty"),
        ({"api_root": "ftp://x"}, TOKEN, "is not an http"),
        ({"credentials": ""}, {}, "--credentials is empty"),
        ({}, {"DRIVEFS_ACCESS_TOKEN": "a\nX-Evil: 1"}, "holds characters that no token has"),
        ({}, {"DRIVEFS_ACCESS_TOKEN": "a b"}, "holds characters that no token has"),
        ({}, {"DRIVEFS_ACCESS_TOKEN": "tökén"}, "holds characters that no token has"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: dict[str, Any], environment: dict[str, str], sentence: str) -> None:
    """Contradictions and halves of a configuration are usage errors, never a silent choice of another Drive."""
    with pytest.raises(UsageError, match=sentence):
        choose(flags, environment)


def test_a_token_is_not_shown(home: Path) -> None:
    """Neither the account nor the configuration gives the token away when printed."""
    account = choose({}, {"DRIVEFS_ACCESS_TOKEN": "tok-secret"})
    config = build_config(Flags(mountpoint="/m"), account, {"HOME": str(home)})
    assert config.access_token == "tok-secret"
    assert "tok-secret" not in repr(account) + repr(config)


def test_every_account_has_its_own_cache(home: Path) -> None:
    """Caches are told apart by API root and by key file, and named by a hash that gives neither away."""
    environment = {"DRIVEFS_DATA_DIR": str(home / "d"), "DRIVEFS_RUNTIME_DIR": str(home / "r")}
    (home / "service.json").write_text(json.dumps({"type": "service_account", "client_email": "a@b.iam", "private_key": "one"}))
    (home / "rotated.json").write_text(json.dumps({"type": "service_account", "client_email": "a@b.iam", "private_key": "two"}))
    user = {"type": "authorized_user", "client_id": "c", "refresh_token": "one"}
    (home / "user.json").write_text(json.dumps(user))
    (home / "other.json").write_text(json.dumps(user))

    def cache(**account: Any) -> Path:
        return build_config(Flags(mountpoint="/m"), Account(**account), environment).cache_dir

    assert cache(embedded=True) == home / "d" / "cache" / "embedded"
    digest = hashlib.sha256(GOOGLE_API_ROOT.encode()).hexdigest()[:12]
    assert cache(token="t") == home / "d" / "cache" / f"drive-{digest}"
    assert cache(credentials=home / "service.json") == cache(credentials=home / "rotated.json")
    names = [
        cache(token="t"),
        cache(token="t", api_root=ROOT),
        cache(credentials=home / "service.json"),
        cache(credentials=home / "user.json"),
        cache(credentials=home / "other.json"),
    ]
    assert len(set(names)) == len(names)
    before = cache(credentials=home / "user.json")
    (home / "user.json").write_text(json.dumps({**user, "refresh_token": "two"}))
    assert cache(credentials=home / "user.json") == before


@pytest.mark.parametrize(("content", "sentence"), [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "is not a key file")])
def test_a_bad_key_file_is_named(home: Path, content: str | None, sentence: str) -> None:
    """A missing file, one that is not JSON, and one that is no key are told apart."""
    if content is not None:
        (home / "key").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        build_config(Flags(mountpoint="/m"), Account(credentials=home / "key"), {})


@pytest.mark.parametrize("typed", ["~/link/drive", "link/drive/", "./link/../link/drive", "{home}/real/drive"])
def test_every_spelling_of_a_mountpoint_is_one_mountpoint(home: Path, typed: str) -> None:
    """So that ``unmount`` finds what ``mount`` started, however either was written."""
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    config = build_config(Flags(mountpoint=typed.format(home=home)), Account(embedded=True), {"HOME": str(home)})
    assert config.mountpoint == home / "real" / "drive"


def test_flags_reach_the_configuration_and_defaults_stay(home: Path) -> None:
    """What was not given keeps the default of Config; relative paths become absolute, because the daemon works in /."""
    plain = build_config(Flags(mountpoint="m"), Account(embedded=True), {"HOME": str(home), "DRIVEFS_RUNTIME_DIR": "r"})
    assert (plain.poll_interval, plain.upload_delay, plain.read_only) == (10.0, 2.0, False)
    assert plain.runtime_dir == home / "r"
    flags = Flags(mountpoint="m", cache_dir="c", read_only=True, poll_interval=1.0, upload_delay=0.0)
    given = build_config(flags, Account(api_root=ROOT, token="t"), {})
    assert (given.poll_interval, given.upload_delay, given.read_only, given.cache_dir) == (1.0, 0.0, True, home / "c")
    assert (given.api_root, given.access_token) == (ROOT, "t")


@pytest.mark.parametrize("cache", ["drive", "drive/MyDrive/cache"])
def test_the_cache_may_not_lie_in_its_own_mount(home: Path, cache: str) -> None:
    """Filling the cache would read the mount, which waits for the cache."""
    with pytest.raises(UsageError, match="would lie in the mount that it serves"):
        build_config(Flags(mountpoint="drive", cache_dir=cache), Account(embedded=True), {"HOME": str(home)})
