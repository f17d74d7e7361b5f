"""Conversations, their turns, messages, tool calls and files; approvals; memories; and the words of them, to search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _conversations()
    _messages()
    _questions_and_memories()
    if op.get_bind().dialect.name == "sqlite":
        _search()
    else:
        _search_in_postgresql()


def _conversations() -> None:
    op.create_table(
        "conversation",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("way", sa.String(32), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("summary_upto", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversation"),
        sa.UniqueConstraint("key", name="uq_conversation_key"),
    )
    op.create_index("ix_conversation_changed_at", "conversation", ["changed_at"])
    op.create_table(
        "turn",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("conversation", sa.String(36), nullable=False),
        sa.Column("message_key", sa.String(255)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("said", sa.JSON, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("merged_into", sa.String(36)),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("hint", sa.Text),
        sa.Column("usage", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_turn"),
        sa.ForeignKeyConstraint(["conversation"], ["conversation.id"], ondelete="CASCADE", name="fk_turn_conversation"),
        sa.UniqueConstraint("conversation", "message_key", name="uq_turn_conversation_message_key"),
    )
    op.create_index("ix_turn_state", "turn", ["state", "id"])


def _messages() -> None:
    op.create_table(
        "message",
        sa.Column("conversation", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("turn", sa.String(36), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("author", sa.String(255), nullable=False),
        sa.Column("cut", sa.Boolean, nullable=False),
        sa.Column("replaced", sa.Boolean, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation", "number", name="pk_message"),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversation.id"], ondelete="CASCADE", name="fk_message_conversation"
        ),
    )
    op.create_table(
        "message_call",
        sa.Column("conversation", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("server", sa.String(64), nullable=False),
        sa.Column("tool", sa.String(255), nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.PrimaryKeyConstraint("conversation", "number", "id", name="pk_message_call"),
        sa.ForeignKeyConstraint(
            ["conversation", "number"],
            ["message.conversation", "message.number"],
            ondelete="CASCADE",
            name="fk_message_call_conversation",
        ),
    )
    op.create_table(
        "attachment",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("conversation", sa.String(36), nullable=False),
        sa.Column("turn", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("call", sa.String(255), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_attachment"),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversation.id"], ondelete="CASCADE", name="fk_attachment_conversation"
        ),
    )
    op.create_index("ix_attachment_conversation", "attachment", ["conversation", "number"])


def _questions_and_memories() -> None:
    op.create_table(
        "approval",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("key", sa.String(512), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("turn", sa.String(36), nullable=False),
        sa.Column("server", sa.String(64), nullable=False),
        sa.Column("tool", sa.String(255), nullable=False),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("answered_by", sa.String(255)),
        sa.Column("content", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_approval"),
        sa.UniqueConstraint("key", name="uq_approval_key"),
    )
    op.create_index("ix_approval_state", "approval", ["state", "asked_at"])
    op.create_table(
        "memory",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memory"),
    )


def _search() -> None:
    """SQLite's FTS5, kept in step by triggers; the rows of the tables themselves have no number that lasts."""
    op.execute("CREATE VIRTUAL TABLE message_search USING fts5(text, conversation UNINDEXED, number UNINDEXED)")
    op.execute(
        "CREATE TRIGGER message_added AFTER INSERT ON message BEGIN "
        "INSERT INTO message_search (text, conversation, number) VALUES (new.text, new.conversation, new.number); END"
    )
    op.execute(
        "CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN "
        "DELETE FROM message_search WHERE conversation = old.conversation AND number = old.number; END"
    )
    op.execute("CREATE VIRTUAL TABLE memory_search USING fts5(text, id UNINDEXED)")
    op.execute(
        "CREATE TRIGGER memory_added AFTER INSERT ON memory BEGIN "
        "INSERT INTO memory_search (text, id) VALUES (new.text, new.id); END"
    )
    op.execute(
        "CREATE TRIGGER memory_removed AFTER DELETE ON memory BEGIN DELETE FROM memory_search WHERE id = old.id; END"
    )


def _search_in_postgresql() -> None:
    """Their rows are written with those of the tables, by `sexton.database.search`."""
    op.create_table(
        "message_search",
        sa.Column("conversation", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("words", TSVECTOR, nullable=False),
        sa.PrimaryKeyConstraint("conversation", "number", name="pk_message_search"),
        sa.ForeignKeyConstraint(
            ["conversation", "number"],
            ["message.conversation", "message.number"],
            ondelete="CASCADE",
            name="fk_message_search_conversation",
        ),
    )
    op.create_index("ix_message_search_words", "message_search", ["words"], postgresql_using="gin")
    op.create_table(
        "memory_search",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("words", TSVECTOR, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memory_search"),
        sa.ForeignKeyConstraint(["id"], ["memory.id"], ondelete="CASCADE", name="fk_memory_search_id"),
    )
    op.create_index("ix_memory_search_words", "memory_search", ["words"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_table("message_search")
    op.drop_table("memory_search")
    for table in ("memory", "approval", "attachment", "message_call", "message", "turn", "conversation"):
        op.drop_table(table)
