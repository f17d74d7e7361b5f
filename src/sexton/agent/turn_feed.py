"""What happens in one conversation, to as many as want to follow it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Self, final

import anyio

from sexton.agent.events import TextDelta, TurnEnded, TurnEvent


@final
class EventStream(AsyncIterator[TurnEvent]):
    """The events of a conversation: those of the turn under way so far, then each as it comes.

    Follows from its making on.  A reader that is slow gets texts in larger
    pieces and misses nothing.  Ends when the conversation is deleted or the
    gateway stops.
    """

    def __init__(self, so_far: tuple[TurnEvent, ...]) -> None:
        self._events = deque(so_far)
        self._news = anyio.Event()
        self._over = False

    def put(self, event: TurnEvent) -> None:
        _append(self._events, event)
        self._news.set()

    def end(self) -> None:
        self._over = True
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TurnEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Follow no longer."""
        self._events.clear()
        self.end()


@final
class TurnFeed:
    """Tells the events of one conversation to its streams, and keeps those of the turn under way for who comes late."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._so_far: deque[TurnEvent] = deque()

    def follow(self) -> EventStream:
        stream = EventStream(tuple(self._so_far))
        self._streams.add(stream)
        return stream

    @property
    def is_followed(self) -> bool:
        return bool(self._streams)

    def tell(self, event: TurnEvent) -> None:
        _append(self._so_far, event)
        for stream in tuple(self._streams):
            stream.put(event)
        if isinstance(event, TurnEnded):
            self._so_far.clear()

    def end(self) -> None:
        for stream in tuple(self._streams):
            stream.end()


def _append(events: deque[TurnEvent], event: TurnEvent) -> None:
    """Texts that nobody has taken yet become one, so that what waits never grows by more than what is said."""
    last = events[-1] if events else None
    if isinstance(event, TextDelta) and isinstance(last, TextDelta) and last.turn == event.turn:
        events[-1] = replace(last, text=last.text + event.text)
    else:
        events.append(event)
