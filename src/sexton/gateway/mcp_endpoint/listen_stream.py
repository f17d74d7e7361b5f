"""`subscriptions/listen` of 2026-07-28: one request whose answer is a stream of what has changed."""

from __future__ import annotations

from typing import Any, Final, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import INVALID_PARAMS

from sexton.gateway.mcp_endpoint.core import Core
from sexton.gateway.mcp_endpoint.eras import modern_result
from sexton.gateway.mcp_endpoint.holding import Holding, release_quietly
from sexton.gateway.mcp_endpoint.methods import SEXTON
from sexton.gateway.mcp_endpoint.modern_client import ModernCall
from sexton.gateway.mcp_endpoint.reply import Reply
from sexton.gateway.mcp_endpoint.subscriptions import keep_following
from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import Params, notification

_FLAGS: Final = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
MAX_URIS: Final = 1000
AGREEMENT_SECONDS: Final = 10.0
_UPDATED: Final = "notifications/resources/updated"


@final
class ListenStream:
    """One open stream.  It says only what was asked for, and every message names the request that opened it."""

    token = None

    def __init__(self, reply: Reply, request_id: str | int, view: View, wanted: Params) -> None:
        self.view = view
        uris = dict.fromkeys(wanted.get("resourceSubscriptions") or ())
        self.uris: list[str] = [uri for uri in uris if view.admits_resource(uri)]
        self._reply = reply
        self._meta = {SUBSCRIPTION_ID_META_KEY: request_id}
        self._flags = [flag for flag in _FLAGS if wanted.get(flag) is True]
        self._methods = {_FLAGS[flag] for flag in self._flags}

    def acknowledge(self) -> None:
        """Say first what will be told."""
        honored: dict[str, Any] = dict.fromkeys(self._flags, True)
        if self.uris:
            honored["resourceSubscriptions"] = self.uris
        self._say("notifications/subscriptions/acknowledged", {"notifications": honored})

    def list_changed(self, method: str) -> None:
        """Tell of a list that has changed, if that was asked for."""
        if method in self._methods:
            self._say(method, {})

    def updated(self, uri: str) -> None:
        """Tell of a resource that has changed."""
        self._say(_UPDATED, {"uri": uri})

    def tell(self, method: str, params: Params | None) -> None:
        """What an older server says to the holdings of this stream: only updates are for it."""
        if method == _UPDATED and params is not None:
            self._say(method, params)

    async def ask(self, method: str, params: Params | None) -> dict[str, Any]:
        """A stream has nobody who could answer."""
        del params
        raise MCPError(-32600, f"sexton declines {method}: no call is under way")

    def result(self) -> dict[str, Any]:
        """What ends the stream in good order."""
        return modern_result("subscriptions/listen", {"_meta": dict(self._meta)}, SEXTON)

    def _say(self, method: str, params: Params) -> None:
        meta = {**(params.get("_meta") or {}), **self._meta}
        self._reply.push(notification(method, {**params, "_meta": meta}))


async def serve_listen(
    core: Core, call: ModernCall, reply: Reply, request_id: str | int, params: Params
) -> dict[str, Any]:
    """Be the stream until the client goes (then this is cancelled) or the endpoint closes.  Raises MCPError.

    The servers are asked before the stream is acknowledged, so that nothing is missed after that; a server that takes
    longer than `AGREEMENT_SECONDS` is not waited for.
    """
    wanted = params.get("notifications")
    if not isinstance(wanted, dict) or not _is_list_of_text(wanted.get("resourceSubscriptions") or []):
        raise MCPError(INVALID_PARAMS, "Invalid params: notifications must say what to listen to")
    stream = ListenStream(reply, request_id, call.view, wanted)
    holdings: dict[str, Holding] = {}
    core.listeners.append(stream)
    try:
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(AGREEMENT_SECONDS):
                await _follow_all(core, call, stream, holdings, tasks)
            stream.acknowledge()
            await core.closing.wait()
            tasks.cancel_scope.cancel()
    finally:
        core.listeners.remove(stream)
        with anyio.CancelScope(shield=True):
            for holding in holdings.values():
                await release_quietly(holding)
    return stream.result()


async def _follow_all(
    core: Core, call: ModernCall, stream: ListenStream, holdings: dict[str, Holding], tasks: anyio.abc.TaskGroup
) -> None:
    """Follow each resource in a task, and return when every server has agreed or refused."""
    missing = len(stream.uris)
    settled = anyio.Event()

    async def follow(uri: str) -> None:
        nonlocal missing
        agreed = anyio.Event()

        async def count() -> None:
            nonlocal missing
            await agreed.wait()
            missing -= 1
            if missing == 0:
                settled.set()

        async with anyio.create_task_group() as both:
            both.start_soon(count)
            await _follow(core, call, stream, holdings, uri, agreed)
            agreed.set()

    for uri in stream.uris:
        tasks.start_soon(follow, uri)
    if stream.uris:
        await settled.wait()


async def _follow(
    core: Core, call: ModernCall, stream: ListenStream, holdings: dict[str, Holding], uri: str, agreed: anyio.Event
) -> None:
    for server in (await core.offers.find_resource(call, uri))[:1]:
        if server not in holdings:
            holdings[server], _ = call.client.make_holding(server, call.view, call.client_info, {}, otherwise=stream)
        await keep_following(holdings[server], uri, stream.updated, agreed)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_URIS and all(isinstance(each, str) for each in value)
