"""The tables, in SQLAlchemy Core, so that the same statements serve SQLite and PostgreSQL.

Times are whole microseconds since the Unix epoch: exact, ordered and the same in every database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since the epoch, read back in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else EPOCH + timedelta(microseconds=value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

job = Table(
    "job",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("definition", JSON, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("paused_at", Instant),
    # The next slot that has no row yet, and when it starts (jitter included).  A paused job keeps its slot and has no
    # start, so that a tick never meets it.
    Column("next_slot", Instant),
    Column("next_start", Instant, index=True),
    # How often the clock was set back under an interval: times that come again are slots of the next lap.
    Column("lap", Integer, nullable=False, server_default="0"),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("job", String(255), nullable=False),
    Column("slot", Instant),
    Column("slot_end", Instant),
    Column("slot_count", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("trigger", String(16), nullable=False),
    Column("reason", Text),
    Column("priority", Integer, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("excerpt", Text),
    Column("error", Text),
    Column("details", JSON, nullable=False),
    # Who runs it: a claim raises the fence, and only the holder of the current fence may write the end.
    Column("owner", String(64)),
    Column("fence", Integer, nullable=False),
    Column("cancel_reason", Text),
    # When it was given to an engine that offers it to the nodes; only on PostgreSQL.
    Column("handed_at", Instant),
    UniqueConstraint("job", "slot", "attempt"),
    Index("ix_run_job_id", "job", "id"),
    Index("ix_run_state_priority", "state", "priority", "id"),
    Index("ix_run_to_hand_over", "priority", "id", postgresql_where="state = 'queued' AND handed_at IS NULL").ddl_if(
        dialect="postgresql"
    ),
    Index("ix_run_active", "job", postgresql_where="state IN ('queued', 'running')").ddl_if(dialect="postgresql"),
)

# What runs may need of the node that works them, each with the queue in which such runs wait.
need = Table(
    "need",
    metadata,
    Column("queue", String(64), primary_key=True),
    Column("document", Text, nullable=False),
)

run_output = Table(
    "run_output",
    metadata,
    Column("run", String(36), ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("output", Text),
    Column("log", JSON, nullable=False),
)

# One row per call that a run made, written when the call has ended, and never changed.
tool_call = Table(
    "tool_call",
    metadata,
    Column("run", String(36), ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("server", String(255), nullable=False),
    Column("tool", String(255), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("text", Text),
    Column("started_at", Instant, nullable=False),
    Column("seconds", Float, nullable=False),
)

# Who else than the local owner may call.  A token that was revoked keeps its row, so that its name can still be told.
token = Table(
    "token",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(64), nullable=False),
    # SHA-256 of the token, in hexadecimal: it has 256 random bits, so nothing slower is needed.
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("profiles", JSON),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
    Column("revoked_at", Instant),
)

# What is to be sent to somebody, in the order of its ids for each target.  `owner` is the gateway that is sending it
# until `lease_until`; `since` is when its time to give up began.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String(255), nullable=False),
    Column("key", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("job", String(255)),
    Column("run", String(36)),
    Column("title", Text),
    Column("text", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("parts_sent", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("since", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("error", Text),
    Column("receipt", Text),
    Column("owner", String(255)),
    Column("lease_until", Instant),
    # A receiver's Retry-After: nothing hurries it.
    Column("not_before", Instant),
    UniqueConstraint("target", "key"),
    Index("ix_delivery_state_target_id", "state", "target", "id"),
    sqlite_autoincrement=True,
)

# What goes out with a delivery, until it was sent.
delivery_file = Table(
    "delivery_file",
    metadata,
    Column("delivery", Integer, ForeignKey("delivery.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("content_type", String(128), nullable=False),
    Column("content", LargeBinary, nullable=False),
)

# What came in over a channel; `key` is the platform's own.  What was answered keeps its key and loses its text.
inbox = Table(
    "inbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("chat", String(255), nullable=False),
    Column("thread", String(255), nullable=False),
    Column("sender", String(255), nullable=False),
    Column("author", String(255), nullable=False),
    Column("text", Text, nullable=False),
    Column("context", JSON, nullable=False),
    Column("conversation", String(400)),
    Column("state", String(16), nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("ended_at", Instant),
    UniqueConstraint("channel", "key"),
    Index("ix_inbox_state_id", "state", "id"),
    sqlite_autoincrement=True,
)

# Files that came with a message, until it is answered; without content, `why` says what kept us from having it.
inbox_file = Table(
    "inbox_file",
    metadata,
    Column("message", Integer, ForeignKey("inbox.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("content_type", String(128), nullable=False),
    Column("content", LargeBinary),
    Column("why", Text, nullable=False),
)

# How far each channel has read, in the platform's own terms.
channel_cursor = Table(
    "channel_cursor",
    metadata,
    Column("channel", String(64), primary_key=True),
    Column("cursor", Text, nullable=False),
)

# Which node keeps a channel, where several share the database; without an owner it was given back.
channel_claim = Table(
    "channel_claim",
    metadata,
    Column("channel", String(64), primary_key=True),
    Column("owner", String(64)),
    Column("since", Instant, nullable=False),
)

# Who wrote to a channel and is not in its settings: let in, refused, or waiting with the code that they were told.
channel_person = Table(
    "channel_person",
    metadata,
    Column("channel", String(64), primary_key=True),
    Column("sender", String(255), primary_key=True),
    Column("author", String(255), nullable=False),
    Column("standing", String(16), nullable=False),
    Column("since", Instant, nullable=False),
    Column("told_at", Instant),
    Column("code", String(16)),
    Column("by", String(255)),
    Column("wrong_codes", Integer, nullable=False),
    Column("wrong_at", Instant),
)

# How often a conversation over a channel was begun anew.
channel_thread = Table(
    "channel_thread",
    metadata,
    Column("conversation", String(400), primary_key=True),
    Column("generation", Integer, nullable=False),
)

# Messages that say how far a turn is, until they are taken away; `message` is the platform's name for it.
progress_note = Table(
    "progress_note",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("channel", String(64), nullable=False),
    Column("chat", String(255), nullable=False),
    Column("context", JSON, nullable=False),
    Column("message", String(255)),
    Column("created_at", Instant, nullable=False),
)

# Codes that let in the first who sends them.
pairing_code = Table(
    "pairing_code",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("channel", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(64), nullable=False),
)

# One row per gateway process.  `beat` only ever counts up; a gateway whose beat stands still is dead.
node = Table(
    "node",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("process", JSON, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("started_at", Instant, nullable=False),
    # What it tells of itself with each beat.
    Column("offers", JSON),
    Column("beat_at", Instant),
)

# Which jobs the config file of each node names, where several share the database.
job_source = Table(
    "job_source",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("job", String(255), primary_key=True),
)

# Nodes that take no more work, by name, so that a restart changes nothing.
drained_node = Table(
    "drained_node",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("since", Instant, nullable=False),
    Column("by", String(255), nullable=False),
)

# How the last gateway of each name ended, until the name is forgotten or 30 days have passed.  `how`: stopped, died;
# `settled` of its runs were ended by the node `by`, and `rerun` of these queued again.
past_node = Table(
    "past_node",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("how", String(16), nullable=False),
    Column("at", Instant, nullable=False),
    Column("by", String(255), nullable=False),
    Column("settled", Integer, nullable=False),
    Column("rerun", Integer, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("offers", JSON),
)

# One row per conversation.  `key` is how its way in knows it, such as "telegram:123".  Messages up to `summary_upto`
# are shown to a model only as the summary.
conversation = Table(
    "conversation",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("key", String(255), nullable=False, unique=True),
    Column("way", String(32), nullable=False),
    Column("title", String(255), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("summary", Text, nullable=False),
    Column("summary_upto", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False, index=True),
)

# One row per message that somebody sent, from its arrival on: `said` is what it holds until its turn begins.
turn = Table(
    "turn",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("conversation", String(36), ForeignKey("conversation.id", ondelete="CASCADE"), nullable=False),
    Column("message_key", String(255)),
    Column("state", String(16), nullable=False),
    Column("said", JSON, nullable=False),
    Column("attempt", Integer, nullable=False),
    # The turn that took this message in while it was under way.
    Column("merged_into", String(36)),
    Column("text", Text, nullable=False),
    Column("error", Text),
    Column("hint", Text),
    Column("usage", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    # The gateway that has it to do, where several share the database.
    Column("owner", String(64)),
    UniqueConstraint("conversation", "message_key"),
    Index("ix_turn_state", "state", "id"),
)

message = Table(
    "message",
    metadata,
    Column("conversation", String(36), ForeignKey("conversation.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("turn", String(36), nullable=False),
    Column("role", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("author", String(255), nullable=False),
    Column("cut", Boolean, nullable=False),
    # An earlier wording, or what followed it; no model sees it any more.
    Column("replaced", Boolean, nullable=False),
    Column("at", Instant, nullable=False),
)

# The tool calls of the model's messages: each step is here before it is taken.
message_call = Table(
    "message_call",
    metadata,
    Column("conversation", String(36), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", String(255), primary_key=True),
    Column("place", Integer, nullable=False),
    Column("name", String(255), nullable=False),
    Column("server", String(64), nullable=False),
    Column("tool", String(255), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", Text, nullable=False),
    Column("seconds", Float),
    ForeignKeyConstraint(["conversation", "number"], ["message.conversation", "message.number"], ondelete="CASCADE"),
)

# Images and files of messages (`call` empty) and of tool results; those of a turn that has not begun have number 0.
attachment = Table(
    "attachment",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("conversation", String(36), ForeignKey("conversation.id", ondelete="CASCADE"), nullable=False),
    Column("turn", String(36), nullable=False),
    Column("number", Integer, nullable=False),
    Column("call", String(255), nullable=False),
    Column("place", Integer, nullable=False),
    Column("media_type", String(128), nullable=False),
    Column("name", String(255), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("ix_attachment_conversation", "conversation", "number"),
)

# Questions that wait for a person, and what became of them.
approval = Table(
    "approval",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("key", String(512), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("holder", String(64), nullable=False),
    Column("turn", String(36), nullable=False),
    Column("server", String(64), nullable=False),
    Column("tool", String(255), nullable=False),
    Column("asked", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("answered_at", Instant),
    Column("answered_by", String(255)),
    Column("content", JSON),
    Index("ix_approval_state", "state", "asked_at"),
)

# What agents were told to remember.
memory = Table(
    "memory",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("text", Text, nullable=False),
    Column("source", String(255), nullable=False),
    Column("at", Instant, nullable=False),
)

# Results of a holder's tools that were too long for a model at once, in parts of bounded size.
kept_result = Table(
    "kept_result",
    metadata,
    Column("holder", String(255), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("at", Instant, nullable=False, index=True),
)

# One row: the minor release, such as 0.1, whose migrations ran last.
schema_line = Table(
    "schema_line",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("line", String(16), nullable=False),
)

# What happened on the nodes of one database: the newest of their journals.  `number` is the event's id on its node.
event = Table(
    "event",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("node", String(255), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("data", JSON, nullable=False),
    Index("ix_event_node_id", "node", "id"),
    sqlite_autoincrement=True,
)
