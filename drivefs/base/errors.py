"""Every error drivefs raises on purpose: its errno for programs, its sentence for people, its exit code for shells.

An error's text is one sentence that says what is wrong and, after it, what to do next. Library exceptions are turned into
these at the border where the library is called, so that nothing above ``remote/`` and ``store/`` knows pycurl or sqlite3.
"""

from __future__ import annotations

import errno
import logging
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "AccessDenied",
    "BadRequest",
    "CacheUnusable",
    "DailyLimit",
    "DataDamaged",
    "DriveFSError",
    "DriveFull",
    "ExitCode",
    "FuseUnavailable",
    "IdInUse",
    "Interrupted",
    "LocalDiskFull",
    "MountpointUnusable",
    "NotMounted",
    "NotOnDrive",
    "PathError",
    "RangeNotSatisfiable",
    "RateLimited",
    "RemoteError",
    "RemoteNotFound",
    "RemoteUnreachable",
    "ServerFault",
    "SessionGone",
    "SignInRefused",
    "TimedOut",
    "UploadSuperseded",
    "UsageError",
    "sole_cause",
]


class ExitCode(IntEnum):
    """What a drivefs command returns to the shell. Documented in README.md; never renumber."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_ON_DRIVE = 3
    SIGN_IN_REFUSED = 4
    UNREACHABLE = 5
    NO_FUSE = 6
    MOUNTPOINT = 7
    CACHE_IN_USE = 8
    DISK_FULL = 9
    NOT_MOUNTED = 10


class DriveFSError(Exception):
    """Base of all. ``errno`` goes to the program that made the call, ``level`` to the log, ``exit_code`` to the shell."""

    errno: int = errno.EIO
    level: ClassVar[int] = logging.ERROR
    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED


def sole_cause(error: Exception) -> Exception:
    """The one exception inside an exception group (and inside a group in that), else ``error`` itself.

    A nursery wraps whatever its tasks raise; at the outermost doors only what was meant for the person counts.
    """
    inner: tuple[Exception, ...] = getattr(error, "exceptions", ())
    return sole_cause(inner[0]) if len(inner) == 1 else error


class UsageError(DriveFSError):
    """A command or a configuration value that cannot be meant."""

    errno = errno.EINVAL
    exit_code = ExitCode.USAGE


class PathError(DriveFSError):
    """A file operation that POSIX refuses; normal business, so it is logged at DEBUG only.

    ``PathError(errno.ENOENT)`` suffices: the text defaults to the errno's own.
    """

    level = logging.DEBUG

    def __init__(self, number: int, text: str | None = None) -> None:
        super().__init__(text or errno.errorcode.get(number, str(number)))
        self.errno = number


class Interrupted(DriveFSError):
    """Whoever made the call has been asked to end by a signal while it waited."""

    errno = errno.EINTR
    level = logging.DEBUG


class LocalDiskFull(DriveFSError):
    """The file system that holds the cache has no room."""

    errno = errno.ENOSPC
    exit_code = ExitCode.DISK_FULL


class DataDamaged(DriveFSError):
    """The disk gives back other bytes than were put there, and Drive does not have them. They are kept under lost+found."""


class CacheUnusable(DriveFSError):
    """The cache directory is in use, foreign, damaged, or made by a newer drivefs. It is left as it was."""

    exit_code = ExitCode.CACHE_IN_USE


class FuseUnavailable(DriveFSError):
    """/dev/fuse, fusermount3 or the right to mount is missing."""

    exit_code = ExitCode.NO_FUSE


class MountpointUnusable(DriveFSError):
    """The mountpoint is a file, a symlink, not empty, or already mounted."""

    exit_code = ExitCode.MOUNTPOINT


class NotMounted(DriveFSError):
    """No drivefs daemon serves the given path."""

    exit_code = ExitCode.NOT_MOUNTED


class NotOnDrive(DriveFSError):
    """Something the user asked to have on Drive is not there yet; the command lists what."""

    exit_code = ExitCode.NOT_ON_DRIVE


class UploadSuperseded(DriveFSError):
    """The file changed while it was being uploaded; nothing was committed, and the newer content is due."""

    level = logging.DEBUG


class RemoteError(DriveFSError):
    """An answer (or no answer) from Drive that is not success.

    status: the HTTP status, 0 where there was none.  reason: Drive's reason word in lower camel case, "" where none was given.
    retry_after: seconds the server asked us to wait, or None.  may_have_applied: True where the request may have taken
    effect although no answer arrived, so that a repeat must be safe by construction.
    Source: https://developers.google.com/workspace/drive/api/guides/handle-errors
    """

    level = logging.WARNING
    exit_code = ExitCode.UNREACHABLE

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        may_have_applied: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.may_have_applied = may_have_applied


class RemoteUnreachable(RemoteError):
    """No connection, or one that broke or stalled: says nothing about whether anything exists."""

    errno = errno.ETIMEDOUT


class TimedOut(RemoteUnreachable):
    """What a program's call waits for made no progress for as long as the call may wait."""


class ServerFault(RemoteError):
    """5xx: Drive's own trouble."""


class RateLimited(RemoteError):
    """429, or 403 with a rate-limit reason: the work never began, so it may always be repeated.

    EIO to programs, and never EAGAIN, after which Python's ``read()`` returns what it has as if the file ended there.
    """


class DailyLimit(RateLimited):
    """An allowance that comes back in hours: the project's calls of a day, or the 750 GB that an account may upload in one.

    Drive words the latter as throttling, so it is certain only when it persists: calls repeat it as they do any throttling.
    Source: https://developers.google.com/workspace/drive/api/guides/limits
    """


class SignInRefused(RemoteError):
    """401, or a credential that can no longer be refreshed."""

    errno = errno.EACCES
    exit_code = ExitCode.SIGN_IN_REFUSED


class AccessDenied(RemoteError):
    """403 for reasons of ownership, sharing or policy."""

    errno = errno.EACCES


class DriveFull(RemoteError):
    """403 storageQuotaExceeded: the account has no room."""

    errno = errno.ENOSPC


class RemoteNotFound(RemoteError):
    """404 for an id: missing, no access, or not yet visible."""

    errno = errno.ENOENT


class IdInUse(RemoteError):
    """409 fileIdInUse: an earlier attempt with this pre-generated id has already succeeded."""

    errno = errno.EEXIST


class RangeNotSatisfiable(RemoteError):
    """416: the content is shorter than we believe."""


class SessionGone(RemoteError):
    """404 or 410 for a resumable session: the upload must begin anew."""


class BadRequest(RemoteError):
    """Any other 4xx: a defect of ours or a value Drive refuses; repeating it is useless."""

    errno = errno.EINVAL
