"""Where the server listens, and how it is kept private there (pure but for what reads the certificate)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from sexton.gateway.http.problem import Problem

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 not bound here, only recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """One address.  `port` 0: any free one.

    `certificate` and `key` are PEM files, both or none.  `trusted_proxy` are the addresses and networks of proxies that
    end TLS before us: what they say of a client (`X-Forwarded-For`, `X-Forwarded-Proto`) is believed.  `names` are the
    names under which clients ask, beside the address itself and the loopback names.
    """

    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None
    trusted_proxy: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @property
    def is_public(self) -> bool:
        return not is_loopback(self.host)

    @property
    def host_names(self) -> frozenset[str]:
        """What a `Host` header may say; an address that stands for all of a machine's is no name."""
        own = {self.host.lower()} if self.is_public and self.host not in _ANY else set()
        return frozenset({*LOOPBACK_NAMES, *own, *(name.lower() for name in self.names)})

    def url(self, port: int) -> str:
        """How a program on this machine reaches us, once the port is known."""
        host = _ANY.get(self.host, self.host)
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        """The application behind its proxies: nobody else reaches it, unless it has TLS of its own."""
        if not self.trusted_proxy:
            return app
        behind: ASGIApp = ProxyHeadersMiddleware(app, list(self.trusted_proxy))  # type: ignore[arg-type, assignment]
        return behind if self.certificate or not self.is_public else OnlyProxies(behind, self.trusted_proxy)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_network(text: str) -> bool:
    """Whether it is an address or a network, such as 10.0.0.0/8."""
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


@final
class OnlyProxies:
    """ASGI middleware that refuses whoever comes without TLS and past the proxies; this machine itself may."""

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...]) -> None:
        self._app = app
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(map(ip_network, trusted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client is not None and self._is_trusted(client[0]):
            await self._app(scope, receive, send)
            return
        problem = Problem(
            status=403,
            kind="not-through-the-proxy",
            what="This server speaks only to its proxy, for what comes past it is not encrypted.",
        )
        await problem.response()(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        try:
            address: IPv4Address | IPv6Address = ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or any(address in network for network in self._networks)
