"""The pages of the chats: the list, and one conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sexton.agent import Attachment, ConversationRecord, Message, NoModel, Role, TurnRow, TurnState
from sexton.gateway.dashboard.approvals import Asked, pending
from sexton.gateway.dashboard.markdown import markdown
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.http import Gateway

MOST_LISTED: Final = 60
MOST_FOUND: Final = 30
MOST_TOLD: Final = 20_000
"""Characters of a tool's result that the page shows."""

_SHOWN_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    """A new conversation.  Query: `q`, words to search for."""
    return {**await _beside(gateway, request), "chat": None, "items": [], "running": "", "waiting": []}


async def load_one(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    record = await gateway.chats.show(request.path_params["conversation"])
    running = next((turn.id for turn in record.turns if turn.state is TurnState.RUNNING), "")
    return {
        **await _beside(gateway, request),
        "chat": record.conversation.as_json(),
        "items": _items(gateway, record, running),
        "running": running,
        "waiting": [turn.said.text for turn in record.turns if turn.state is TurnState.QUEUED],
    }


async def answer_picture(gateway: Gateway, request: Request) -> Response:
    """An image of a message, or of the result of one of its calls; nothing else that a browser would run."""
    record = await gateway.chats.show(request.path_params["conversation"])
    wanted, place = int(request.path_params["number"]), int(request.path_params["place"])
    found = [picture for message in record.messages if message.number == wanted for picture in _pictures(message)]
    if place >= len(found) or found[place].media_type not in _SHOWN_PICTURES:
        raise HTTPException(404)
    return Response(found[place].data, media_type=found[place].media_type, headers={"cache-control": "private"})


async def _beside(gateway: Gateway, request: Request) -> dict[str, Any]:
    words = request.query_params.get("q", "").strip()
    found = await gateway.chats.search(words, limit=MOST_FOUND) if words else ()
    return {
        "words": words,
        "found": [one.as_json() for one in found],
        "chats": [one.as_json() for one in await gateway.chats.list(limit=MOST_LISTED)],
        "no_model": _no_model(gateway),
        "elsewhere": await _elsewhere(gateway, request),
    }


async def _elsewhere(gateway: Gateway, request: Request) -> Sequence[Asked]:
    """What waits for a person and is not asked in this very chat, where it is shown already."""
    here = f"/chat/{request.path_params.get('conversation')}"
    return [one for one in await pending(gateway) if one.target != here]


def _no_model(gateway: Gateway) -> NoModel | None:
    try:
        gateway.chats.require_model()
    except NoModel as missing:
        return missing
    return None


def _items(gateway: Gateway, record: ConversationRecord, running: str) -> list[dict[str, Any]]:
    """What was said, and after each turn that went wrong, why.  What the running turn says is told as it comes."""
    wrong = {turn.id: turn for turn in record.turns if turn.state in (TurnState.FAILED, TurnState.STOPPED)}
    last = {message.turn: message.number for message in record.messages}
    items: list[dict[str, Any]] = []
    for message in record.messages:
        if message.role is Role.USER or message.turn != running:
            items.append(_item(gateway, message))
        if message.turn in wrong and last[message.turn] == message.number:
            items.append(_ending(wrong[message.turn]))
    return items


def _item(gateway: Gateway, message: Message) -> dict[str, Any]:
    text = gateway.redactor.known(message.text)
    pictures = _pictures(message)
    return {
        "kind": str(message.role),
        "number": message.number,
        "author": message.author,
        "text": text,
        "html": markdown(text) if message.role is Role.ASSISTANT else None,
        "cut": message.cut,
        "at": message.at,
        "pictures": [place for place, one in enumerate(pictures) if one.media_type in _SHOWN_PICTURES],
        "calls": [
            {
                "server": call.server,
                "tool": call.tool,
                "state": str(call.state),
                "seconds": call.seconds,
                "arguments": dict(call.arguments),
                "result": call.shown[:MOST_TOLD],
                "left_out": max(0, len(call.shown) - MOST_TOLD),
            }
            for call in message.calls
        ],
    }


def _ending(turn: TurnRow) -> dict[str, Any]:
    return {"kind": str(turn.state), "error": turn.error, "hint": turn.hint}


def _pictures(message: Message) -> list[Attachment]:
    return [*message.images, *(picture for call in message.calls for picture in call.images)]
