"""Channels: chat platforms, how they are doing, and who may talk to us there."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from starlette.requests import Request

from sexton.gateway.channels import Channels, ChannelStatus, Person
from sexton.gateway.documents import ChannelDocument, PairingDocument, PersonDocument
from sexton.gateway.http.body import RequestBody, read_body
from sexton.gateway.http.caller import caller_of
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import not_found


class WhoRequest(RequestBody):
    """A person: the code that they were told, or the platform's id of them."""

    who: str = Field(min_length=1, max_length=255)


async def list_channels(gateway: Gateway, _: Request) -> Sequence[ChannelDocument]:
    """Every channel, by name."""
    return [] if gateway.channels is None else [channel_document(one) for one in await gateway.channels.statuses()]


async def list_people(gateway: Gateway, request: Request) -> Sequence[PersonDocument]:
    """Who wrote to a channel and is not in its settings, those that wait first."""
    people = await (await _known(gateway, request)).people(request.path_params["channel"])
    return [person_document(one) for one in sorted(people, key=lambda one: (one.standing != "waiting", one.since))]


async def approve_person(gateway: Gateway, request: Request) -> PersonDocument:
    """Let a person in."""
    channels, asked = await _known(gateway, request), await read_body(request, WhoRequest)
    person = await channels.approve(request.path_params["channel"], asked.who, by=caller_of(request).name)
    return person_document(person)


async def refuse_person(gateway: Gateway, request: Request) -> PersonDocument:
    """Answer a person no more, whatever else lets them in."""
    channels, asked = await _known(gateway, request), await read_body(request, WhoRequest)
    person = await channels.refuse(request.path_params["channel"], asked.who, by=caller_of(request).name)
    return person_document(person)


async def forget_person(gateway: Gateway, request: Request) -> Sequence[PersonDocument]:
    """Take back what was decided about a person; answers with those that are left."""
    channels, asked = await _known(gateway, request), await read_body(request, WhoRequest)
    await channels.forget(request.path_params["channel"], asked.who)
    return await list_people(gateway, request)


async def make_code(gateway: Gateway, request: Request) -> PairingDocument:
    """A code that lets in the first person who sends it to that channel, within an hour."""
    channels, name = await _known(gateway, request), request.path_params["channel"]
    code, until = await channels.make_code(name, by=caller_of(request).name)
    return PairingDocument(channel=name, code=code, expires_at=until.isoformat())


async def _known(gateway: Gateway, request: Request) -> Channels:
    name = request.path_params["channel"]
    known = [] if gateway.channels is None else [status.name for status in await gateway.channels.statuses()]
    if gateway.channels is None or name not in known:
        raise not_found("channel", name, known, listing="sexton channels")
    return gateway.channels


def channel_document(status: ChannelStatus) -> ChannelDocument:
    return ChannelDocument(
        name=status.name,
        type=status.kind,
        state=str(status.state),
        account=status.account,
        since=status.since.isoformat(),
        error=status.error,
        hint=status.hint,
        retry_at=status.retry_at.isoformat() if status.retry_at else None,
        waiting=status.waiting,
        people=status.people,
        node=status.node,
    )


def person_document(person: Person) -> PersonDocument:
    return PersonDocument(
        channel=person.channel,
        id=person.sender,
        name=person.author,
        standing=str(person.standing),
        code=person.code,
        since=person.since.isoformat(),
        by=person.by,
    )
