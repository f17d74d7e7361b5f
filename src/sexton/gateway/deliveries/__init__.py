"""Deliveries: what is to be sent to somebody, until it is sent.

Owns the durable outbox and the ways to send that are not chats: webhooks,
files, and the services that Apprise reaches.  Promises that what was put into
the outbox is sent at least once or told as failed, over restarts and crashes;
that a repeat carries the same key; that one target gets its deliveries in
order.  Who is told what about a run is written in the transaction that writes
the run's end.  Chat platforms are targets too; they live in
`sexton.gateway.channels`.
"""

from sexton.gateway.deliveries.answers import seconds_of
from sexton.gateway.deliveries.apprise_target import AppriseConfig, AppriseTarget
from sexton.gateway.deliveries.deliveries import Deliveries
from sexton.gateway.deliveries.delivery import Attachment, Delivery, DeliveryState, Message, UnknownDelivery, key_of_run
from sexton.gateway.deliveries.file_target import FileConfig, FileTarget
from sexton.gateway.deliveries.outbox import Outbox, queue_message, queue_run
from sexton.gateway.deliveries.parts import Part, TextLimits, split_text, utf16_length
from sexton.gateway.deliveries.target import SendDelayed, SendFailed, Target
from sexton.gateway.deliveries.target_config import TargetConfig, make_target
from sexton.gateway.deliveries.webhook import WebhookConfig, WebhookTarget

__all__ = [
    "AppriseConfig",
    "AppriseTarget",
    "Attachment",
    "Deliveries",
    "Delivery",
    "DeliveryState",
    "FileConfig",
    "FileTarget",
    "Message",
    "Outbox",
    "Part",
    "SendDelayed",
    "SendFailed",
    "Target",
    "TargetConfig",
    "TextLimits",
    "UnknownDelivery",
    "WebhookConfig",
    "WebhookTarget",
    "key_of_run",
    "make_target",
    "queue_message",
    "queue_run",
    "seconds_of",
    "split_text",
    "utf16_length",
]
