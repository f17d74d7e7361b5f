"""The command line's side of the HTTP API."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx2

from sexton.errors import SextonError, UsageError
from sexton.gateway import TOKEN_FILE, Address, read_address
from sexton.gateway.documents import EventDocument

_USAGE = frozenset({400, 404, 405, 409, 413, 415, 422})
_CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0  # for everything that does not wait for a tool, a server or a run


class NoGatewayError(SextonError):
    """Nothing answers for this data folder."""

    def __init__(self, data_dir: Path, *, why: str = "") -> None:
        super().__init__(
            f"No gateway is running on {data_dir}.{why}", hint="start one with: sexton up  (or name its folder: --data)"
        )


class SilentGatewayError(SextonError):
    """A gateway is alive and does not answer."""


class GatewayClient:
    """Asks one running gateway.  Every method raises `SextonError` (`UsageError` if what was asked is wrong)."""

    def __init__(self, address: Address, token: str, data_dir: Path) -> None:
        self.address = address
        self._data_dir = data_dir
        self._http = httpx2.Client(
            base_url=f"{address.url}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,  # a proxy from the environment must not see the token
            verify=_trust(address),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, *, timeout: Any = httpx2.USE_CLIENT_DEFAULT, **query: str | int | list[str] | None) -> Any:
        """`timeout` in seconds, `ANSWER_SECONDS` if left out; None waits for as long as the gateway lives."""
        given = {key: value for key, value in query.items() if value is not None}
        return self._ask("GET", path, params=given, timeout=timeout)

    def get_text(self, path: str, **query: str | int) -> str:
        with self._told():
            return self._checked(self._http.get(path, params=query)).text

    def follow_text(self, path: str, **query: str | int) -> Iterator[str]:
        """A text without an end, piece by piece as it comes."""
        with self._told(), self._http.stream("GET", path, params=query, timeout=None) as answer:
            if answer.is_error:
                answer.read()
            yield from self._checked(answer).iter_text()

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout: Any = httpx2.USE_CLIENT_DEFAULT
    ) -> Any:
        return self._ask("POST", path, json=body or {}, timeout=timeout)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def last_event_id(self) -> int:
        """The id of the newest event, to follow from there."""
        return cast("int", self.get("status")["last_event"])

    def events(self, *, after: int) -> Iterator[EventDocument]:
        """Everything that happens after the event of that id, until the gateway closes the stream."""
        with self._told(), self._http.stream("GET", "events", params={"after": after}, timeout=None) as answer:
            if answer.is_error:
                answer.read()
            for line in self._checked(answer).iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    @contextmanager
    def following(self, path: str) -> Iterator[Iterator[Mapping[str, Any]]]:
        """Server-sent events at a path, as documents; nothing that happens within the block is missed."""
        with self._told(), self._http.stream("GET", path, timeout=None) as answer:
            if answer.is_error:
                answer.read()
            lines = self._checked(answer).iter_lines()
            yield (json.loads(line[6:]) for line in lines if line.startswith("data: "))

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        with self._told():
            answer = self._checked(self._http.request(method, path, **how))
            return None if answer.status_code == 204 else answer.json()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what went wrong on the way."""
        try:
            yield
        except httpx2.ConnectError as error:
            if not self.address.is_alive():
                raise NoGatewayError(self._data_dir) from error
            raise self._silent("takes no connection") from error
        except httpx2.TimeoutException as error:
            raise self._silent("does not answer in time") from error
        except (httpx2.TransportError, json.JSONDecodeError) as error:
            raise SextonError(
                f"The gateway at {self.address.url} broke off before it had answered ({error}).",
                hint="see whether it still runs: sexton ps",
            ) from error

    def _silent(self, what: str) -> SilentGatewayError:
        return SilentGatewayError(
            f"The gateway at {self.address.url} (pid {self.address.pid}) is alive but {what}.",
            hint=f"look at its output; if it hangs, end it with: kill -9 {self.address.pid}  (its servers end with it)",
        )

    def _checked(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.is_error:
            raise self._error_of(answer)
        return answer

    def _error_of(self, answer: httpx2.Response) -> SextonError:
        try:
            problem = answer.json()
            what, hint = str(problem["detail"]), problem.get("hint")
        except (ValueError, KeyError, TypeError):
            return SextonError(f"The gateway at {self.address.url} answered with status {answer.status_code}.")
        if answer.status_code == 401:
            hint = f"is {self._data_dir / TOKEN_FILE} that of this gateway?"
        return (UsageError if answer.status_code in _USAGE else SextonError)(what, hint=hint)


def _trust(address: Address) -> ssl.SSLContext:
    """Only the gateway's own certificate, whoever signed it and whatever names it has; without TLS nobody.

    The system's authorities are not loaded, which takes 50 ms, and could not vouch for 127.0.0.1.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if address.certificate is not None:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(address.certificate)
        except (OSError, ssl.SSLError) as error:
            raise SextonError(
                f"The gateway's certificate {address.certificate} cannot be read: {error}.",
                hint="look at [tls] in sexton.toml",
            ) from error
    return context


def find_gateway(data_dir: Path) -> GatewayClient | None:
    """The gateway that runs on this data folder, or None.  A file that a crash left behind is no obstacle.

    Raises `SextonError` if there is one and its token cannot be read.
    """
    address = read_address(data_dir)
    if address is None or not address.is_alive():
        return None
    try:
        token = (data_dir / TOKEN_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SextonError(
            f"A gateway runs (pid {address.pid}), but its token cannot be read: {error}.",
            hint="run this as the user of the gateway",
        ) from error
    return GatewayClient(address, token, data_dir)


def need_gateway(data_dir: Path) -> GatewayClient:
    """As `find_gateway`, but raises `NoGatewayError` if there is none."""
    gateway = find_gateway(data_dir)
    if gateway is None:
        left = "  (The last one ended without cleaning up.)" if read_address(data_dir) else ""
        raise NoGatewayError(data_dir, why=left)
    return gateway


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
