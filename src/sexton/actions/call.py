"""A run that is one tool call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import anyio

from sexton.errors import SextonError
from sexton.journal import JSON
from sexton.mcp_servers import CallToolResult, ContentBlock, Lease, ServerPool, Tool, ToolDenied, ToolFilter
from sexton.scheduler import CallState, Outcome, RunContext, RunFailed

MAX_NAMED = 12


async def run_call(pool: ServerPool, action: Mapping[str, JSON], ctx: RunContext) -> Outcome:
    """Call the tool that `action` names and return its result as text.

    `action` holds `server`, `tool`, and optionally `arguments` (an object),
    `timeout` (seconds without progress; the server's `call_timeout` if left
    out), and `tools` (`allow`, `deny`: what this job may call).  The run's own
    timeout is the scheduler's: it cancels this call, at the server too.

    Raises:
        RunFailed: the server could not be had, offers no such tool, or
            answered that it failed.
    """
    server, tool = str(action["server"]), str(action["tool"])
    arguments = action.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise RunFailed(f"the arguments of {server}.{tool} are not an object but {json.dumps(arguments)}.")
    try:
        async with pool.lease(server, holder=f"run:{ctx.run.id}", allow=_filter(action), returns=False) as lease:
            await _require_tool(lease, tool)
            result = await _call_recorded(lease, tool, arguments, action, ctx)
            return _outcome(result, server=server, tool=tool, process=lease.process)
    except RunFailed:
        raise
    except SextonError as error:
        raise RunFailed(error.what, hint=error.hint, details={"server": server, "tool": tool}) from error


async def _call_recorded(
    lease: Lease, tool: str, arguments: Mapping[str, Any], action: Mapping[str, JSON], ctx: RunContext
) -> CallToolResult:
    began, state, text = anyio.current_time(), CallState.CANCELLED, ""
    try:
        result = await lease.call_tool(tool, arguments, timeout=_timeout(action), progress=_Progress(ctx))
        state, text = CallState.ERROR if result.is_error else CallState.OK, render_content(result)
    except SextonError as error:
        state, text = CallState.DENIED if isinstance(error, ToolDenied) else CallState.FAILED, error.what
        raise
    finally:
        ctx.record_call(lease.server, tool, arguments, state=state, text=text, seconds=anyio.current_time() - began)
    return result


def render_content(result: CallToolResult) -> str:
    """Return what a person reads of a result: its texts, and of anything else what it is and how large.

    Structured content stands in for text where a tool sends nothing else.
    """
    text = "\n".join(map(_render_block, result.content))
    if not text and result.structured_content is not None:
        return json.dumps(result.structured_content, indent=2, ensure_ascii=False)
    return text


class _Progress:
    """Passes a call's progress on to whoever watches the run, and keeps its idle timeout from running out."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        done = f"{progress:g}" if total is None else f"{progress:g} of {total:g}"
        self._ctx.progress(f"{done}: {message}" if message else done)


async def _require_tool(lease: Lease, tool: str) -> None:
    """Raise RunFailed, before anything is called, when the running server does not offer this run that tool."""
    offered = await lease.list_tools()
    names = [each.name for each in offered]
    if tool in names:
        return
    details: Mapping[str, JSON] = {"server": lease.server, "tool": tool, "process": lease.process}
    if not lease.admits(tool):
        await lease.call_tool(tool)  # raises ToolDenied, and says which list it is
    if not names:
        raise RunFailed(
            f"server {lease.server!r} runs but offers this run none of its tools, so {tool!r} was not called.",
            hint=f"see what it offers: sexton servers check {lease.server}",
            details=details,
        )
    what = f"server {lease.server!r} has no tool {tool!r}; {_listing(offered)}."
    raise RunFailed(what, hint=_nearest(tool, names), details=details)


def _listing(tools: Sequence[Tool]) -> str:
    names = ", ".join(tool.name for tool in tools[:MAX_NAMED])
    return f"it has {names}" + (f" and {len(tools) - MAX_NAMED} more" if len(tools) > MAX_NAMED else "")


def _nearest(tool: str, names: Sequence[str]) -> str | None:
    near = get_close_matches(tool, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else None


def _outcome(result: CallToolResult, *, server: str, tool: str, process: str) -> Outcome:
    output = render_content(result)
    details: dict[str, JSON] = {"server": server, "tool": tool, "process": process}
    if result.structured_content is not None:
        details["structured_content"] = result.structured_content
    if result.is_error:
        said = output.strip() or "it gave no reason"
        raise RunFailed(f"tool {tool!r} of server {server!r} failed: {said}", output=output, details=details)
    return Outcome(output=output, details=details)


def _render_block(block: ContentBlock) -> str:
    match block.model_dump(mode="json", by_alias=True, exclude_none=True):
        case {"type": "text", "text": str(text)} | {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "image" | "audio" as kind, "mimeType": mime, "data": str(data)}:
            return f"[{kind} {mime}, {_decoded_size(data)} bytes]"
        case {"type": "resource", "resource": {"uri": uri, "blob": str(data)}}:
            return f"[file {uri}, {_decoded_size(data)} bytes]"
        case {"type": "resource_link", "uri": uri, "name": name}:
            return f"[link {name}: {uri}]"
        case other:
            return json.dumps(other, ensure_ascii=False)


def _decoded_size(base64: str) -> int:
    return len(base64.rstrip("=")) * 3 // 4


def _filter(action: Mapping[str, JSON]) -> ToolFilter | None:
    lists = action.get("tools")
    if not isinstance(lists, Mapping):
        return None
    allow, deny = _names(lists.get("allow")), _names(lists.get("deny"))
    return ToolFilter(allow=allow, deny=deny or ())


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else None


def _timeout(action: Mapping[str, JSON]) -> float | None:
    timeout = action.get("timeout")
    return float(timeout) if isinstance(timeout, int | float) else None
