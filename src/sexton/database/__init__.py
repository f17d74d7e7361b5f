"""The database: its connections, its transactions and its schema.

Owns the SQLite file or the connections to PostgreSQL, the tables and the migrations.  Promises that a
transaction is whole or not at all, is on disk when it returns, never blocks
the event loop, and fails only with a `DatabaseError` that says what to do.
Leaves to others what the rows mean.
"""

from sexton.database.connection import Database, Offload
from sexton.database.failures import DatabaseError, Failure
from sexton.database.location import Location, PostgresUrl, is_postgres
from sexton.database.search import MessageFound, search_on
from sexton.database.tables import (
    EPOCH,
    approval,
    attachment,
    channel_claim,
    channel_cursor,
    channel_person,
    channel_thread,
    conversation,
    delivery,
    delivery_file,
    drained_node,
    event,
    inbox,
    inbox_file,
    job,
    job_source,
    kept_result,
    memory,
    message,
    message_call,
    need,
    node,
    pairing_code,
    past_node,
    progress_note,
    run,
    run_output,
    token,
    tool_call,
    turn,
)
from sexton.database.transfer import Progress, copy_everything, count_rows, refuse_unless_empty

__all__ = [
    "EPOCH",
    "Database",
    "DatabaseError",
    "Failure",
    "Location",
    "MessageFound",
    "Offload",
    "PostgresUrl",
    "Progress",
    "approval",
    "attachment",
    "channel_claim",
    "channel_cursor",
    "channel_person",
    "channel_thread",
    "conversation",
    "copy_everything",
    "count_rows",
    "delivery",
    "delivery_file",
    "drained_node",
    "event",
    "inbox",
    "inbox_file",
    "is_postgres",
    "job",
    "job_source",
    "kept_result",
    "memory",
    "message",
    "message_call",
    "need",
    "node",
    "pairing_code",
    "past_node",
    "progress_note",
    "refuse_unless_empty",
    "run",
    "run_output",
    "search_on",
    "token",
    "tool_call",
    "turn",
]
