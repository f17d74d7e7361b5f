"""Channels: chat platforms on which people talk to the agent.

Owns the durable inbox, who may talk to us (allow-lists, pairing), the
connections, and one module per platform; others come by the entry points
`sexton.channels`.  Promises that the same message twice is one turn, that an
answer survives a crash between its writing and its sending, that a stranger
gets nowhere, and that a platform that is down stops nothing else.  The turn is
the business of the agent (`chats.py` says what is needed of it), sending that
of `sexton.gateway.deliveries`.
"""

from sexton.gateway.channels.access import AccessRules, Standing
from sexton.gateway.channels.channel import Channel, ChannelDown, Incoming, Line, ShowsProgress
from sexton.gateway.channels.channels import Channels, ChannelState, ChannelStatus
from sexton.gateway.channels.chats import Chats, Said, SayAs, WhenBusy
from sexton.gateway.channels.claims import ChannelClaims
from sexton.gateway.channels.files import IncomingFile
from sexton.gateway.channels.inbox import Inbox, Person
from sexton.gateway.channels.kind import ChannelKind, ChannelOptions, find_kind, kind_names
from sexton.gateway.channels.setup import ChannelSetup

__all__ = [
    "AccessRules",
    "Channel",
    "ChannelClaims",
    "ChannelDown",
    "ChannelKind",
    "ChannelOptions",
    "ChannelSetup",
    "ChannelState",
    "ChannelStatus",
    "Channels",
    "Chats",
    "Inbox",
    "Incoming",
    "IncomingFile",
    "Line",
    "Person",
    "Said",
    "SayAs",
    "ShowsProgress",
    "Standing",
    "WhenBusy",
    "find_kind",
    "kind_names",
]
