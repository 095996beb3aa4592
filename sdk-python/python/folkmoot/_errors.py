"""What can go wrong, as one tree of exceptions.

Every exception says what to do next: ``retryable`` (the same call may succeed later),
``maybe_applied`` (the store may have been changed in spite of it), ``endpoint`` (who was asked).
Where Python has a kind for it, the exception is of that kind too: ``DeadlineExceeded`` is a
``TimeoutError``, ``InvalidArgument`` a ``ValueError``.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar


class FolkmootError(Exception):
    """Base of everything that this package raises about the store."""

    code: ClassVar[str] = "INTERNAL"
    """A stable name for logs and metrics."""

    message: str
    """What happened, without code and endpoint."""
    retryable: bool
    """Whether the same call may succeed later."""
    maybe_applied: bool
    """Whether the store may have been changed in spite of the error."""
    endpoint: str | None
    """The member that was asked, if one was."""
    details: dict[str, Any]
    """More about it; what is there depends on the class."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        maybe_applied: bool = False,
        endpoint: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        self.maybe_applied = maybe_applied
        self.endpoint = endpoint
        self.details = {} if details is None else details

    def __str__(self) -> str:
        where = "" if self.endpoint is None else f" endpoint={self.endpoint}"
        return f"{self.message}{where} code={self.code}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (
            type(self),
            self.message,
            self.retryable,
            self.maybe_applied,
            self.endpoint,
            self.details,
        )


def _restore(
    kind: type[FolkmootError],
    message: str,
    retryable: bool,
    maybe_applied: bool,
    endpoint: str | None,
    details: dict[str, Any],
) -> FolkmootError:
    return kind(message, retryable=retryable, maybe_applied=maybe_applied, endpoint=endpoint, details=details)


class DeadlineExceeded(FolkmootError, TimeoutError):
    """Time ran out. A write may have been applied."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(FolkmootError, ConnectionError):
    """No member could serve the call; nothing was applied."""

    code = "UNAVAILABLE"


class Ambiguous(FolkmootError):
    """A write was sent and its answer was lost: it may have been applied, or may still be."""

    code = "AMBIGUOUS"


class CallCancelled(FolkmootError):
    """The call was given up by the store."""

    code = "CANCELLED"


class AuthError(FolkmootError):
    """Base: who calls is not known, or may not do that."""


class AuthFailed(AuthError):
    """Name and password, or the certificate, were refused."""

    code = "AUTH_FAILED"


class PermissionDenied(AuthError, PermissionError):
    """This user may not do that."""

    code = "PERMISSION_DENIED"


class SessionError(FolkmootError):
    """Base: what was held is not held any more, or not here."""


class SessionLost(SessionError):
    """The session has ended; everything held through it is lost."""

    code = "SESSION_LOST"


class ForkedError(SessionError):
    """The object was made before a fork, and is used in the child."""

    code = "FORKED"


class LockError(FolkmootError):
    """Base: a lock or leadership is not held."""


class NotHeld(LockError):
    """The lock is not, or no longer, held."""

    code = "NOT_HELD"


class NotLeader(LockError):
    """The leadership is not, or no longer, held."""

    code = "NOT_LEADER"


class WouldBlock(LockError):
    """Somebody else holds it, and waiting was not asked for."""

    code = "WOULD_BLOCK"


class TxnError(FolkmootError):
    """Base: a transaction was refused."""


class Conflict(TxnError):
    """What was read has changed meanwhile."""

    code = "CONFLICT"


class TooManyOps(TxnError):
    """More operations than a transaction takes."""

    code = "TOO_MANY_OPS"


class WatchError(FolkmootError):
    """Base: a watch cannot go on."""


class Compacted(WatchError):
    """The asked-for history is compacted away."""

    code = "COMPACTED"

    @property
    def compact_revision(self) -> int:
        """The oldest revision that can still be read; 0 if that is not known."""
        return int(self.details.get("compact_revision", 0))


class Overflow(WatchError):
    """The consumer was too slow for the policy that it chose."""

    code = "OVERFLOW"

    @property
    def resume_revision(self) -> int:
        """The revision from which to go on; 0 if that is not known."""
        return int(self.details.get("resume_revision", 0))


class ClusterReset(WatchError):
    """The store is another one than before, or went back in time: it was restored or replaced."""

    code = "CLUSTER_RESET"


class StaleRead(FolkmootError):
    """Only members answered that are behind what this client has already seen."""

    code = "STALE_READ"


class ConfigError(FolkmootError, ValueError):
    """Base: a configuration is not taken."""


class InvalidConfig(ConfigError):
    """It does not parse, or does not fit its type."""

    code = "INVALID_CONFIG"


class Rejected(ConfigError):
    """It was refused by the validator."""

    code = "REJECTED"


class NoInstances(FolkmootError, LookupError):
    """There is no instance to pick."""

    code = "NO_INSTANCES"


class AlreadyRegistered(FolkmootError):
    """Somebody else is registered under this id."""

    code = "ALREADY_REGISTERED"


class InvalidArgument(FolkmootError, ValueError):
    """The arguments make no sense, here or for the store."""

    code = "INVALID_ARGUMENT"


class LeaseNotFound(FolkmootError, LookupError):
    """The lease does not exist, or no longer."""

    code = "LEASE_NOT_FOUND"


class NotFound(FolkmootError, LookupError):
    """What was named does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(FolkmootError):
    """What was to be created exists."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(FolkmootError):
    """The store's state does not allow it."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(FolkmootError):
    """The store is full, or its limits are reached."""

    code = "RESOURCE_EXHAUSTED"


class Closed(FolkmootError):
    """The client, session or stream was closed."""

    code = "CLOSED"


class InternalError(FolkmootError, RuntimeError):
    """A bug in the client or in the store."""

    code = "INTERNAL"


def _leaves(kind: type[FolkmootError]) -> dict[str, type[FolkmootError]]:
    classes: dict[str, type[FolkmootError]] = {}
    for child in kind.__subclasses__():
        if "code" in vars(child):
            classes[child.code] = child
        classes |= _leaves(child)
    return classes


_BY_CODE = _leaves(FolkmootError)


def from_native(
    code: str,
    message: str,
    retryable: bool,
    maybe_applied: bool,
    endpoint: str | None,
    details: str,
) -> FolkmootError:
    """Make the exception for an error of the native part."""
    return _BY_CODE.get(code, InternalError)(
        message,
        retryable=retryable,
        maybe_applied=maybe_applied,
        endpoint=endpoint,
        details=json.loads(details),
    )
