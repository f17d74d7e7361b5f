"""Conversations: what was said, saying something, and following it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast
from uuid import uuid4

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sexton.agent import (
    Approval,
    Attachment,
    Budget,
    ChatSettings,
    ConversationBusy,
    EventStream,
    ToolRules,
    TurnEnded,
    UserMessage,
)
from sexton.gateway.documents import (
    ApprovalDocument,
    ConversationDocument,
    ConversationRecordDocument,
    FoundDocument,
    TurnDocument,
)
from sexton.gateway.http.body import RequestBody, read_body, read_count
from sexton.gateway.http.caller import caller_of
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.http.event_stream import FrameStream
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import Problem, bad_request

MAX_LISTED = 500
OwnTools: TypeAlias = Literal["jobs", "memory", "send"]
_ALL: tuple[OwnTools, ...] = ("jobs", "memory", "send")


class ToolLists(RequestBody):
    allow: list[str] | None = None
    deny: list[str] = Field(default_factory=list)


class BudgetRequest(RequestBody):
    """What one turn may use; None is no limit, `timeout` is in seconds."""

    max_steps: int | None = Field(default=50, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    timeout: float | None = Field(default=None, gt=0)


class ConversationRequest(RequestBody):
    """A conversation: `key` names it (the same key is the same conversation), the rest is what it may do."""

    key: str | None = Field(default=None, min_length=1, max_length=200)
    way: Literal["api", "terminal", "web"] = "api"
    models: list[str] | None = None
    servers: list[str] | None = None
    tools: ToolLists = Field(default_factory=ToolLists)
    approvals: Literal["never", "destructive", "always"] | None = None
    budget: BudgetRequest | None = None
    instructions: str = ""
    may: list[OwnTools] = Field(default_factory=lambda: [*_ALL])

    def settings(self) -> ChatSettings:
        return ChatSettings(
            models=None if self.models is None else tuple(self.models),
            servers=None if self.servers is None else tuple(self.servers),
            tools=ToolRules(
                allow=None if self.tools.allow is None else tuple(self.tools.allow), deny=tuple(self.tools.deny)
            ),
            approvals=None if self.approvals is None else Approval(self.approvals),
            budget=None if self.budget is None else Budget(**self.budget.model_dump()),
            instructions=self.instructions,
            may=tuple(self.may),
        )


class ImageRequest(RequestBody):
    """`data` is in base64."""

    media_type: str
    data: str
    name: str = ""


class MessageRequest(RequestBody):
    """Something to say.  `wait`: answer when the turn has ended, not at once."""

    text: str = ""
    images: list[ImageRequest] = Field(default_factory=list)
    author: str = ""
    when_busy: Literal["queue", "interrupt", "steer", "refuse"] = "queue"
    message_key: str | None = Field(default=None, min_length=1, max_length=200)
    wait: bool = False


class RetryRequest(RequestBody):
    """Say the user's message of that number again, perhaps in other words; what followed it is put aside.

    `keep` are the places (from 0) of those of its images that stay, all if it is not given; `images` are added.
    """

    number: int = Field(ge=1)
    text: str | None = None
    keep: list[int] | None = None
    images: list[ImageRequest] = Field(default_factory=list)


class AnswerRequest(RequestBody):
    """A person's answer to a question; `content` is what was filled in, where a server asked for input."""

    yes: bool
    content: dict[str, Any] | None = None


async def list_conversations(gateway: Gateway, request: Request) -> Sequence[ConversationDocument]:
    """The ones that changed last first; query: `way`, `limit` (default 50), `before` (a `changed_at` to go on from)."""
    found = await gateway.chats.list(
        limit=read_count(request, "limit", default=50, most=MAX_LISTED),
        before=_time(request.query_params.get("before")),
        way=request.query_params.get("way"),
    )
    return [cast("ConversationDocument", each.as_json()) for each in found]


async def open_conversation(gateway: Gateway, request: Request) -> ConversationDocument:
    """Begin a conversation, or change what the one of that key may do."""
    asked = await read_body(request, ConversationRequest)
    key = f"{asked.way}:{asked.key or uuid4().hex[:12]}"
    found = await gateway.chats.conversation(key, way=asked.way, settings=asked.settings())
    return cast("ConversationDocument", found.as_json())


async def search_conversations(gateway: Gateway, request: Request) -> Sequence[FoundDocument]:
    """Messages that hold all words of `q` (query), best first."""
    limit = read_count(request, "limit", default=50, most=MAX_LISTED)
    found = await gateway.chats.search(request.query_params.get("q", ""), limit=limit)
    return [cast("FoundDocument", each.as_json()) for each in found]


async def show_conversation(gateway: Gateway, request: Request) -> ConversationRecordDocument:
    """A conversation with all that was said in it."""
    record = await gateway.chats.show(request.path_params["conversation"])
    return cast("ConversationRecordDocument", record.as_json())


async def export_conversation(gateway: Gateway, request: Request) -> Response:
    """The whole of it as one text; query: `form`, json (with images, the default) or markdown."""
    form = request.query_params.get("form", "json")
    if form not in ("json", "markdown"):
        raise bad_request(f"There is no form {form!r}.", hint="use json or markdown")
    text = await gateway.chats.export(
        request.path_params["conversation"], form=cast("Literal['json', 'markdown']", form)
    )
    media = "application/json" if form == "json" else "text/markdown"
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return PlainTextResponse(text, headers=headers, media_type=media)


async def delete_conversation(gateway: Gateway, request: Request) -> Response:
    """Stop what is under way in it, and remove it for ever."""
    await gateway.chats.delete(request.path_params["conversation"])
    return Response(status_code=204)


async def send_message(gateway: Gateway, request: Request) -> TurnDocument:
    """Say something; answers with the turn: at once, or with `wait` when it has ended.

    A client that goes away while it waits leaves the turn alone.
    """
    asked = await read_body(request, MessageRequest)
    if not asked.text and not asked.images:
        raise bad_request("The message is empty.")
    chats, conversation = gateway.chats, request.path_params["conversation"]
    said = UserMessage(asked.text, tuple(map(_attachment, asked.images)), asked.author)
    try:
        turn = await chats.send(conversation, said, when_busy=asked.when_busy, message_key=asked.message_key)
    except ConversationBusy as busy:
        raise Problem(status=409, kind="busy", what=busy.what, hint=busy.hint) from busy
    if not asked.wait:
        return turn_document(turn.id)
    ended = await while_connected(gateway, request.receive, turn.wait())
    return turn_document(turn.id, ended)


async def stop_turn(gateway: Gateway, request: Request) -> dict[str, bool]:
    """Stop the turn under way."""
    chats, conversation = gateway.chats, request.path_params["conversation"]
    await chats.find(conversation)
    return {"stopped": chats.stop(conversation)}


async def retry_message(gateway: Gateway, request: Request) -> TurnDocument:
    """Say an earlier message again."""
    asked = await read_body(request, RetryRequest)
    turn = await gateway.chats.retry(
        request.path_params["conversation"],
        asked.number,
        text=asked.text,
        keep=asked.keep,
        more=tuple(map(_attachment, asked.images)),
    )
    return turn_document(turn.id)


async def stream_turns(gateway: Gateway, request: Request) -> Response:
    """What happens in the conversation from now on; a turn under way is told from its beginning."""
    chats, conversation = gateway.chats, request.path_params["conversation"]
    await chats.find(conversation)
    return FrameStream(gateway, _frames(chats.events(conversation)))


async def list_approvals(gateway: Gateway, request: Request) -> Sequence[ApprovalDocument]:
    """Questions that wait for a person, newest first; with `all` (query) also those that are answered."""
    wants_all = "all" in request.query_params
    found = await gateway.chats.approvals.listed(
        pending_only=not wants_all, limit=read_count(request, "limit", default=50, most=MAX_LISTED)
    )
    return [cast("ApprovalDocument", each.as_json()) for each in found]


async def answer_approval(gateway: Gateway, request: Request) -> ApprovalDocument:
    """Answer a question, as the caller."""
    asked = await read_body(request, AnswerRequest)
    answered = await gateway.chats.approve(
        request.path_params["approval"], yes=asked.yes, by=caller_of(request).name, content=asked.content
    )
    return cast("ApprovalDocument", answered.as_json())


def turn_document(turn: str, ended: TurnEnded | None = None) -> TurnDocument:
    return TurnDocument(
        id=turn,
        state=ended.state if ended else "queued",
        text=ended.text if ended else "",
        error=ended.error if ended else None,
        hint=ended.hint if ended else None,
        usage=ended.usage.as_json() if ended else {},
    )


async def _frames(stream: EventStream) -> AsyncIterator[bytes]:
    async for event in stream:
        document = event.as_json()
        data = json.dumps(document, ensure_ascii=False)
        yield f"event: {document['type']}\ndata: {data}\n\n".encode("utf-8", "replace")


def _attachment(image: ImageRequest) -> Attachment:
    try:
        return Attachment(image.media_type, base64.b64decode(image.data, validate=True), image.name)
    except ValueError as error:  # binascii.Error is one; text beyond ASCII is another
        raise bad_request(f"An image is not base64: {error}.") from error


def _time(said: str | None) -> datetime | None:
    if said is None:
        return None
    try:
        time = datetime.fromisoformat(said)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise bad_request(f"The query parameter before must be a time with an offset, not {said!r}.")
    return time
