"""The same as ``folkmoot``, for threads: the same names, without ``await``.

Waiting lets other threads run, and Ctrl-C ends it.
"""

from .._registry import Balancer, Pick
from ._client import Auth, Client, Snapshot, Watch
from ._config import Config, ConfigEvents, ConfigWatch, TypedConfig
from ._registry import HealthCheck, Registration, RegistrationWatch, Registry, ServiceWatch
from ._session import Election, Leadership, LeaderWatch, LockGuard, Mutex, Session, StateWatch, Txn
from ._stream import Stream

__all__ = [
    "Auth",
    "Balancer",
    "Client",
    "Config",
    "ConfigEvents",
    "ConfigWatch",
    "Election",
    "HealthCheck",
    "LeaderWatch",
    "Leadership",
    "LockGuard",
    "Mutex",
    "Pick",
    "Registration",
    "RegistrationWatch",
    "Registry",
    "ServiceWatch",
    "Session",
    "Snapshot",
    "StateWatch",
    "Stream",
    "Txn",
    "TypedConfig",
    "Watch",
]
