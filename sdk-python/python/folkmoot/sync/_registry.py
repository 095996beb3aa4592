"""Services and their instances, for threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType

from .. import _convert as conv
from .. import _encode as enc
from .. import _native as native
from .._call import Call, same, wait
from .._errors import Closed
from .._registry import Balancer, prober
from .._requests import health as to_health
from .._requests import outward_address, register_call
from .._requests import policy as to_policy
from .._types import Health, Instance, OnConflict, Policy, RegistrationEvent, ServiceEvent
from ._session import Held
from ._stream import Stream

HealthCheck = Callable[[], "Health | str | bool"]
"""Says how an instance is. Asked every five seconds, in a thread of its own; three bad answers in a row, or
answers that
take more than three seconds, change it for the worse, two good ones for the better."""


class RegistrationWatch(Stream[RegistrationEvent]):
    """What happens to a registration. What nobody takes is forgotten after 64."""


class Registration(Held):
    """An instance that is registered, and stays so until it is deregistered.

    At the end of ``with`` it is drained and deregistered; when it is garbage it is deregistered.
    """

    def __init__(self, registration: native.Registration, grace: float) -> None:
        self._native = registration
        self._grace = grace

    def __repr__(self) -> str:
        return f"Registration(id={self.id!r})"

    @property
    def id(self) -> str:
        """Its id within the service."""
        return self._native.id()

    def set_health(self, status: Health | str | bool) -> None:
        """Say how it is."""
        self._native.set_health(to_health(status, "status"))

    def events(self) -> RegistrationWatch:
        """Follow what happens to it."""
        return RegistrationWatch(self._native.events(), conv.registration_event)

    def drain(self, grace: float = 5.0) -> None:
        """Say that it takes nothing new, and wait until clients have had the time to notice.

        Then close the listeners, and ``deregister()``, which also ends the wait of another thread.
        """
        wait(Call(self._native.drain(enc.seconds(grace, "grace")), same))

    def deregister(self) -> None:
        """Take it out of the registry. Once it is out this does nothing."""
        wait(Call(self._native.deregister(), same))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._grace > 0 and (error is None or isinstance(error, Exception)):
                # Taken out within the block, there is nothing left to drain.
                with suppress(Closed):
                    self.drain(self._grace)
        finally:
            super().__exit__(kind, error, trace)

    def _leave(self) -> None:
        self.deregister()


class ServiceWatch(Stream[ServiceEvent]):
    """All instances of a service at first, then each change."""


class Registry:
    """The services of a namespace."""

    def __init__(self, registry: native.Registry, namespace: str, endpoints: list[str]) -> None:
        self._native = registry
        self._namespace = namespace
        self._endpoints = endpoints

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self._namespace

    def register(
        self,
        service: str,
        *,
        port: int,
        host: str | None = None,
        id: str | None = None,  # noqa: A002
        ports: Mapping[str, int] | None = None,
        weight: int = 100,
        status: Health | str = Health.UP,
        version: str = "",
        zone: str = "",
        attrs: Mapping[str, str] | None = None,
        ttl: float | None = None,
        on_conflict: OnConflict = "fail",
        health: HealthCheck | None = None,
        drain: float = 5.0,
    ) -> Registration:
        """Register an instance, and keep it registered whatever happens to the store.

        ``with registry.register("users", port=8080):`` drains for ``drain`` seconds and deregisters at the
        end.

        ``host`` is this machine's address on its way to the store if not said; ``id`` is made up. ``ttl`` is
        how long it
        stays registered without contact to the store: 15 s. ``health`` is asked how the instance is.
        """
        grace = enc.seconds(drain, "drain")
        pending = register_call(
            self._native,
            service,
            port=port,
            host=outward_address(self._endpoints) if host is None else host,
            id=id,
            ports={} if ports is None else ports,
            weight=weight,
            status=status,
            version=version,
            zone=zone,
            attrs={} if attrs is None else attrs,
            ttl=ttl,
            on_conflict=on_conflict,
            check=prober(health, None),
        )
        return Registration(wait(Call(pending, same)), grace)

    def resolve(self, service: str) -> tuple[Instance, ...]:
        """List the instances of a service, now."""
        return wait(Call(self._native.resolve(enc.text(service, "service")), conv.instances))

    def subscribe(self, service: str) -> ServiceWatch:
        """Follow the instances of a service."""
        pending = self._native.subscribe(enc.text(service, "service"))
        return ServiceWatch(wait(Call(pending, same)), conv.service_event)

    def balancer(self, service: str, policy: Policy = "round_robin") -> Balancer:
        """Get what picks instances of a service."""
        pending = self._native.balancer(enc.text(service, "service"), to_policy(policy))
        return Balancer(wait(Call(pending, same)))
