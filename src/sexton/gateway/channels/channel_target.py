"""A channel as a target of deliveries: under the short names of the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from sexton.gateway.channels.channel import Channel
from sexton.gateway.channels.setup import ChannelSetup
from sexton.gateway.deliveries import Part, TextLimits


@final
class ChannelTarget:
    """See `Target`."""

    def __init__(self, channel: Channel, setup: ChannelSetup) -> None:
        self._channel = channel
        self._setup = setup

    @property
    def limits(self) -> TextLimits:
        return self._channel.limits

    @property
    def give_up_after(self) -> float:
        return self._setup.give_up_after

    def refusal(self, to: str | None) -> str | None:
        chat = self._setup.chat_of(to)
        if chat is None:
            return f"a recipient must be named, as in {self._setup.name}:RECIPIENT, or set home in its settings"
        return self._channel.refusal(chat)

    async def send(self, part: Part) -> str | None:
        return await self._channel.send(replace(part, to=self._setup.chat_of(part.to)))

    async def aclose(self) -> None:
        await self._channel.aclose()
