"""What a holder is told when it cannot have a server, or may not use a tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from sexton.errors import SextonError, UsageError
from sexton.mcp_servers.breaker import BreakerState, BreakerStatus
from sexton.mcp_servers.server_errors import ServerFailed


class UnknownServer(UsageError):
    """There is no server of that name."""


class ToolDenied(SextonError):
    """An allow or deny list keeps this holder from this tool.  The server was not asked."""


class ServerUnavailable(SextonError):
    """The server could not be started, or is not started now because it failed lately."""


class NoPlace(SextonError):
    """All processes that an exclusive server may have stayed in use, or the old process did not end, for too long."""


class PoolClosed(SextonError):
    """The gateway is stopping, or has not started yet."""


class CallRefused(SextonError):
    """The server answered a request with a JSON-RPC error.  It works; it did not like this request."""

    def __init__(self, what: str, *, code: int, data: Any = None, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.code = code
        self.data = data


def unknown_server(name: str, known: Iterable[str]) -> UnknownServer:
    names = sorted(known)
    what = f"there is no server {name!r}"
    if near := get_close_matches(name, names, n=1):
        return UnknownServer(f"{what}.", hint=f"did you mean {near[0]!r}? See: sexton servers")
    listing = f"; the servers are {', '.join(names)}" if names else "; no server is configured"
    return UnknownServer(f"{what}{listing}.", hint=f"add [servers.{name}] to sexton.toml")


def tool_denied(server: str, tool: str, *, by: str) -> ToolDenied:
    return ToolDenied(
        f"tool {tool!r} of server {server!r} may not be used here: {by} does not let it through.",
        hint=f"change the allow or deny list of {by}, or call another tool: sexton servers tools {server}",
    )


def start_failed(server: str, error: SextonError, breaker: BreakerStatus) -> ServerUnavailable:
    """Say what happened, in the words of who noticed it, and what we do about it."""
    gone = error.processes_gone if isinstance(error, ServerFailed) else None
    what = f"{gone}; {_intention(breaker)}." if gone else _sentence(_intention(breaker))
    unavailable = ServerUnavailable(f"{error.what}\n  {what}", hint=_hint(server, error.hint))
    unavailable.__cause__ = error
    return unavailable


def start_refused(server: str, breaker: BreakerStatus) -> ServerUnavailable:
    """Say that nothing was tried, why, and when it will be."""
    times = "once" if breaker.failures == 1 else f"{breaker.failures} times in a row"
    what = f"server {server!r} is not started now: it failed {times}.\n  {_sentence(_intention(breaker))}"
    if breaker.last_error:
        what += f"\n  The last failure: {breaker.last_error}"
    return ServerUnavailable(what, hint=_hint(server, None))


def no_place(server: str, holders: Sequence[str], *, waited: float, places: int) -> NoPlace:
    if not holders:
        return NoPlace(
            f"server {server!r} could not be had within {seconds(waited)}: its old process has not ended yet.",
            hint="see what holds it up: sexton ps",
        )
    held = f"its {places} processes are held" if places > 1 else "its one process is held"
    return NoPlace(
        f"server {server!r} could not be had within {seconds(waited)}: {held} by {', '.join(sorted(set(holders)))}.",
        hint=f"raise max_processes or connect_timeout under [servers.{server}], or end one of the holders",
    )


def pool_closed() -> PoolClosed:
    return PoolClosed("no server is given out: the gateway is stopping, or has not started yet.")


def seconds(duration: float) -> str:
    """Return a duration as a person would say it: `0.4 s`, `30 s`, `5 min`."""
    if duration < 10:
        return f"{duration:.2g} s"
    return f"{duration:.0f} s" if duration < 120 else f"{duration / 60:.0f} min"


def _intention(breaker: BreakerStatus) -> str:
    wait = f"we try again in {seconds(breaker.retry_in)}" if breaker.retry_in else "we try again when it is next needed"
    if breaker.state is BreakerState.OPEN:
        return f"after {breaker.failures} failures in a row {wait}"
    return f"{wait} (attempt {breaker.failures + 1} of {breaker.attempts})"


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _hint(server: str, first: str | None) -> str:
    check = f"sexton servers check {server}"
    return f"{first}; then run: {check}" if first else f"run: {check}"
