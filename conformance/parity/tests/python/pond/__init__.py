"""A package to read."""

from dataclasses import dataclass

from ._core import *
from ._core.client import Client
from ._core.client import _secret

__all__ = ["Client", "Duck", "Pond", "quack"]

Pond = dict


@dataclass(frozen=True)
class Duck:
    name: str
    _age: int = 0


def _hidden() -> None: ...
