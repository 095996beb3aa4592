"""Services and their instances, for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

from . import _convert as conv
from . import _encode as enc
from . import _native as native
from ._call import Call, run, same
from ._encode import Text
from ._errors import Closed
from ._requests import health, outward_address, policy, register_call
from ._session import Acquire, Held
from ._stream import Stream
from ._typed import in_loop
from ._types import Health, Instance, OnConflict, Policy, RegistrationEvent, ServiceEvent

log = logging.getLogger("folkmoot")

HealthCheck = Callable[[], "Health | str | bool | Awaitable[Health | str | bool]"]
"""Says how an instance is. Asked every five seconds; three bad answers in a row, or answers that take more
than
three seconds, change it for the worse, two good ones for the better."""


def prober(check: object, loop: asyncio.AbstractEventLoop | None) -> Callable[[native.Probe], None] | None:
    """Make the function that asks a check. It is called by a thread of the native part."""
    if check is None:
        return None
    if not callable(check):
        raise TypeError(f"health must be a callable, not {type(check).__name__}")
    if loop is None and inspect.iscoroutinefunction(check):
        raise TypeError("health must not be a coroutine function here; folkmoot.Client takes one")
    asked: Callable[[], Any] = check

    def probe(probe: native.Probe) -> None:
        # A check that fails says that the instance is down, and why is logged.
        try:
            answer = asked()
            if not inspect.isawaitable(answer):
                probe.answer(health(answer, "the answer of the health check"))
                return
            verdict = in_loop(answer, loop)
        except Exception:
            log.exception("a health check failed")
            probe.answer("DOWN")
            return

        def done(verdict: Future[Any]) -> None:
            try:
                probe.answer(health(verdict.result(), "the answer of the health check"))
            except BaseException:
                log.exception("a health check failed")
                probe.answer("DOWN")

        verdict.add_done_callback(done)

    return probe


class RegistrationWatch(Stream[RegistrationEvent]):
    """What happens to a registration. What nobody takes is forgotten after 64."""


class Registration(Held):
    """An instance that is registered, and stays so until it is deregistered.

    At the end of ``async with`` it is drained and deregistered; when it is garbage it is deregistered.
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
        self._native.set_health(health(status, "status"))

    def events(self) -> RegistrationWatch:
        """Follow what happens to it."""
        return RegistrationWatch(self._native.events, conv.registration_event)

    async def drain(self, grace: float = 5.0) -> None:
        """Say that it takes nothing new, and wait until clients have had the time to notice.

        Then close the listeners, and ``deregister()``, which also ends the wait.
        """
        await run(Call(self._native.drain(enc.seconds(grace, "grace")), same))

    async def deregister(self) -> None:
        """Take it out of the registry. Once it is out this does nothing."""
        await run(Call(self._native.deregister(), same))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._grace > 0 and not isinstance(error, asyncio.CancelledError):
                # Taken out within the block, there is nothing left to drain.
                with suppress(Closed):
                    await self.drain(self._grace)
        finally:
            await super().__aexit__(kind, error, trace)

    async def _leave(self) -> None:
        await self.deregister()


class PickBase:
    """An instance that was picked for one call.

    Used with ``with``, the call failed if the block raised. Otherwise say so, by ``ok()``, ``fail()`` or
    ``done()``; if
    nothing is said it counts as success. The first word counts.
    """

    def __init__(self, pick: native.Pick) -> None:
        self._native = pick
        self._instance = conv.instance(pick.instance())

    def __repr__(self) -> str:
        return f"Pick({self.addr!r})"

    @property
    def instance(self) -> Instance:
        """The instance."""
        return self._instance

    @property
    def addr(self) -> str:
        """Its ``host:port``."""
        return self._instance.addr

    def done(self, success: bool, latency: float | None = None) -> None:
        """Say how the call went, and how many seconds it took, if not since the pick."""
        self._native.finish(enc.flag(success, "success"), enc.optional_seconds(latency, "latency"))

    def ok(self) -> None:
        """Say that the call worked."""
        self.done(True)

    def fail(self) -> None:
        """Say that the instance failed."""
        self.done(False)

    def __enter__(self) -> Pick:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A caller that gave up, or pressed Ctrl-C, says nothing about the instance.
        self.done(error is None or not isinstance(error, Exception))


Pick = PickBase


class Balancer:
    """Picks instances of a service, without waiting.

    While the store is not heard it goes on with the last known instances. An instance whose calls fail is
    left out
    for a while.
    """

    def __init__(self, balancer: native.Balancer) -> None:
        self._native = balancer

    def pick(self, key: Text | None = None) -> Pick:
        """Pick an instance, or raise ``NoInstances``. The key is for the policy ``ring_hash``."""
        return Pick(self._native.pick(None if key is None else enc.data(key, "key")))

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The last known instances."""
        return conv.instances(self._native.instances())


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
    ) -> Acquire[Registration]:
        """Register an instance, and keep it registered whatever happens to the store.

        ``async with registry.register("users", port=8080):`` drains for ``drain`` seconds and deregisters at
        the end;
        awaited, that is left to the caller.

        ``host`` is this machine's address on its way to the store if not said; ``id`` is made up. ``ttl`` is
        how long it
        stays registered without contact to the store: 15 s. ``health`` is asked how the instance is.
        """
        grace = enc.seconds(drain, "drain")

        async def acquire() -> Registration:
            loop = asyncio.get_running_loop()
            where: object = host
            if where is None:
                # Names are resolved for it, which may take its time.
                where = await loop.run_in_executor(None, outward_address, self._endpoints)
            pending = register_call(
                self._native,
                service,
                port=port,
                host=where,
                id=id,
                ports={} if ports is None else ports,
                weight=weight,
                status=status,
                version=version,
                zone=zone,
                attrs={} if attrs is None else attrs,
                ttl=ttl,
                on_conflict=on_conflict,
                check=prober(health, loop),
            )
            return Registration(await run(Call(pending, same)), grace)

        return Acquire(acquire)

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        """List the instances of a service, now."""
        return await run(Call(self._native.resolve(enc.text(service, "service")), conv.instances))

    def subscribe(self, service: str) -> ServiceWatch:
        """Follow the instances of a service."""
        name = enc.text(service, "service")
        return ServiceWatch(lambda: self._native.subscribe(name), conv.service_event)

    async def balancer(self, service: str, policy: Policy = "round_robin") -> Balancer:
        """Get what picks instances of a service."""
        pending = self._native.balancer(enc.text(service, "service"), _policy(policy))
        return Balancer(await run(Call(pending, same)))


_policy = policy
