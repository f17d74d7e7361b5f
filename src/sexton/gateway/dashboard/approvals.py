"""The page of what waits for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request

from sexton.agent import PendingApproval, QuestionKind, UnknownConversation
from sexton.gateway.dashboard.tool_form import Field, fields_of
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.http import Gateway
from sexton.scheduler import UnknownRun

MOST_PENDING: Final = 200
MOST_ANSWERED: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as the page shows it.  `target` is the page of who asks, `shown` what the call or answer is about."""

    id: str
    kind: str
    what: str
    who: str
    target: str | None
    message: str
    url: str | None
    shown: Any
    fields: Sequence[Field]
    state: str
    by: str
    asked_at: str
    expires_at: str
    answered_at: str | None


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    """Those that wait, the first asked first, and the latest that do no longer."""
    answered = await gateway.chats.approvals.listed(pending_only=False, limit=MOST_ANSWERED)
    return {
        "pending": list(reversed(await pending(gateway))),
        "answered": await _told(gateway, [one for one in answered if one.answered_at is not None]),
    }


async def pending(gateway: Gateway) -> Sequence[Asked]:
    """What waits for a person now, newest first."""
    return await _told(gateway, await gateway.chats.approvals.listed(limit=MOST_PENDING))


async def _told(gateway: Gateway, approvals: Sequence[PendingApproval]) -> Sequence[Asked]:
    holders = dict.fromkeys(approval.question.holder for approval in approvals)
    people = {holder: await _who(gateway, holder) for holder in holders}
    return [_asked(approval, *people[approval.question.holder]) for approval in approvals]


async def _who(gateway: Gateway, holder: str) -> tuple[str, str | None]:
    """Who asks, in words, and the page of it."""
    kind, _, place = holder.partition(":")
    match kind:
        case "run":
            return await _job(gateway, place), f"/runs/{quote(place, safe='')}"
        case "chat":
            try:
                found = await gateway.chats.find(place)
            except UnknownConversation:
                return "a chat that is deleted", None
            return f"chat “{found.title or found.key}”", f"/chat/{quote(place, safe='')}"
        case "api":
            return "a program that uses /v1", None
        case _:
            return holder, None


async def _job(gateway: Gateway, run: str) -> str:
    try:
        return f"job {(await gateway.scheduler.run_record(run)).run.job}"
    except UnknownRun:
        return f"run {run[-8:]}"


def _asked(approval: PendingApproval, who: str, target: str | None) -> Asked:
    question = approval.question
    asked = dict(question.asked)
    schema, url = asked.pop("schema", None), asked.pop("url", None)
    message = str(asked.pop("message", ""))
    return Asked(
        id=approval.id,
        kind=str(question.kind),
        what=".".join(filter(None, (question.server, question.tool))),
        who=who,
        target=target,
        message=message,
        url=str(url) if url else None,
        shown=asked.get("arguments", asked) if question.kind is not QuestionKind.ELICITATION else None,
        fields=fields_of(schema) if isinstance(schema, Mapping) else (),
        state=str(approval.state),
        by=approval.answered_by or "",
        asked_at=approval.asked_at.isoformat(),
        expires_at=approval.expires_at.isoformat(),
        answered_at=approval.answered_at.isoformat() if approval.answered_at else None,
    )
