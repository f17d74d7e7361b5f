"""Full-text search of messages and memories: by SQLite's FTS5, or by a tsvector on PostgreSQL.

Both find the same: words without regard to case and accents (those of Latin letters), in any language's letters, a
word with something in between (`foo-bar`) as its parts in a row.  They may disagree about which of two is the better
find.  What a text is split into is decided here, not by the server: its parser would take `example.org/page` for one
word, and its letters depend on the language that it was set up for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from sqlalchemy import Connection, text

EXCERPT_WORDS = 12
_WORD = re.compile(r"(?:[^\W_][\u0300-\u036f]*)+")
_MARKS = re.compile(r"[\u0300-\u036f]")
# PostgreSQL's limits for a tsvector: 1 MB in all, 2 KB a word (its manual, "Limitations" of full text search).
_MOST_BYTES = 400_000
_LONGEST_WORD = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFound:
    """`excerpt` is the place, with «…» around each word that was looked for."""

    conversation: str
    number: int
    excerpt: str


class Search(Protocol):
    def add_message(self, conversation: str, number: int, said: str) -> None:
        """In the transaction that adds the message."""
        ...

    def add_memory(self, memory_id: str, said: str) -> None: ...

    def messages(self, words: str, *, limit: int) -> tuple[MessageFound, ...]:
        """Those that hold all the words and that a model still sees, best first."""
        ...

    def memories(self, words: str, *, source: str, limit: int) -> tuple[str, ...] | None:
        """The ids of those of that source that hold any of the words, best first; None: there is no word in it."""
        ...


def search_on(connection: Connection) -> Search:
    """The search of the database that it is connected to, within its transaction."""
    return _SqliteSearch(connection) if connection.dialect.name == "sqlite" else _PostgresSearch(connection)


def split_words(said: str) -> list[str]:
    """The words of a text, folded as they are looked for."""
    return [_folded(found[0]) for found in _WORD.finditer(said)]


def _folded(word: str) -> str:
    return _MARKS.sub("", unicodedata.normalize("NFD", word.lower()))


def _phrases(words: str) -> list[list[str]]:
    """Each word of a question as the words in a row that it stands for."""
    return [parts for word in words.split() if (parts := split_words(word))]


@final
class _SqliteSearch:
    """Triggers of the schema keep the words of the tables."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_message(self, conversation: str, number: int, said: str) -> None:
        """Done by the trigger `message_added`."""

    def add_memory(self, memory_id: str, said: str) -> None:
        """Done by the trigger `memory_added`."""

    def messages(self, words: str, *, limit: int) -> tuple[MessageFound, ...]:
        if not (phrases := _phrases(words)):
            return ()
        query = text(
            "SELECT s.conversation, s.number, snippet(message_search, 0, '«', '»', '…', :around) AS excerpt"
            " FROM message_search s JOIN message m ON m.conversation = s.conversation AND m.number = s.number"
            " WHERE message_search MATCH :words AND NOT m.replaced ORDER BY rank LIMIT :most"
        )
        given = {"words": _quoted(phrases, " "), "most": limit, "around": EXCERPT_WORDS}
        rows = self._connection.execute(query, given).all()
        return tuple(
            MessageFound(conversation=row.conversation, number=row.number, excerpt=row.excerpt) for row in rows
        )

    def memories(self, words: str, *, source: str, limit: int) -> tuple[str, ...] | None:
        if not (phrases := _phrases(words)):
            return None
        query = text(
            "SELECT m.id FROM memory_search s JOIN memory m ON m.id = s.id"
            " WHERE memory_search MATCH :words AND m.source = :source ORDER BY rank LIMIT :most"
        )
        given = {"words": _quoted(phrases, " OR "), "source": source, "most": limit}
        return tuple(self._connection.execute(query, given).scalars())


def _quoted(phrases: Iterable[Sequence[str]], joint: str) -> str:
    return joint.join(f'"{" ".join(parts)}"' for parts in phrases)


@final
class _PostgresSearch:
    """The words stand in tables of their own, each row made and removed with what it is about."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_message(self, conversation: str, number: int, said: str) -> None:
        statement = text(
            "INSERT INTO message_search (conversation, number, words)"
            " VALUES (:conversation, :number, CAST(CAST(:words AS text) AS tsvector))"
        )
        given = {"conversation": conversation, "number": number, "words": _vector(split_words(said))}
        self._connection.execute(statement, given)

    def add_memory(self, memory_id: str, said: str) -> None:
        statement = text("INSERT INTO memory_search (id, words) VALUES (:id, CAST(CAST(:words AS text) AS tsvector))")
        self._connection.execute(statement, {"id": memory_id, "words": _vector(split_words(said))})

    def messages(self, words: str, *, limit: int) -> tuple[MessageFound, ...]:
        if not (phrases := _phrases(words)):
            return ()
        query = text(
            "WITH asked AS (SELECT CAST(CAST(:words AS text) AS tsquery) AS words)"
            " SELECT s.conversation, s.number, m.text"
            " FROM asked, message_search s JOIN message m ON m.conversation = s.conversation AND m.number = s.number"
            " WHERE s.words @@ asked.words AND NOT m.replaced"
            " ORDER BY ts_rank_cd(s.words, asked.words, 1) DESC, m.at DESC LIMIT :most"
        )
        rows = self._connection.execute(query, {"words": _query(phrases, " & "), "most": limit}).all()
        return tuple(
            MessageFound(conversation=row.conversation, number=row.number, excerpt=excerpt_of(row.text, phrases))
            for row in rows
        )

    def memories(self, words: str, *, source: str, limit: int) -> tuple[str, ...] | None:
        if not (phrases := _phrases(words)):
            return None
        query = text(
            "WITH asked AS (SELECT CAST(CAST(:words AS text) AS tsquery) AS words)"
            " SELECT m.id FROM asked, memory_search s JOIN memory m ON m.id = s.id"
            " WHERE s.words @@ asked.words AND m.source = :source"
            " ORDER BY ts_rank_cd(s.words, asked.words, 1) DESC, m.at DESC LIMIT :most"
        )
        given = {"words": _query(phrases, " | "), "source": source, "most": limit}
        return tuple(self._connection.execute(query, given).scalars())


def _vector(words: Iterable[str]) -> str:
    """A tsvector as text: its words with their places.  The end of a very long text is left out."""
    return " ".join(_placed(words))


def _placed(words: Iterable[str]) -> Iterator[str]:
    size = 0
    for place, word in enumerate(words, 1):
        placed = f"'{word[:_LONGEST_WORD]}':{place}"
        size += len(placed.encode())
        if size > _MOST_BYTES:
            return
        yield placed


def _query(phrases: Iterable[Sequence[str]], joint: str) -> str:
    rows = (" <-> ".join(f"'{word[:_LONGEST_WORD]}'" for word in parts) for parts in phrases)
    return joint.join(f"({row})" for row in rows)


def excerpt_of(said: str, phrases: Iterable[Sequence[str]]) -> str:
    """`EXCERPT_WORDS` words around the first that was looked for, each of those between «»."""
    wanted = {word for parts in phrases for word in parts}
    found = list(_WORD.finditer(said))
    hits = [place for place, word in enumerate(found) if _folded(word[0]) in wanted]
    if not hits:
        return said[:100]
    first = max(0, min(hits[0] - 3, len(found) - EXCERPT_WORDS))
    shown = range(first, min(first + EXCERPT_WORDS, len(found)))
    start = found[shown[0]].start() if first else 0
    end = found[shown[-1]].end() if shown[-1] + 1 < len(found) else len(said)
    return _marked(said, [found[place] for place in hits if place in shown], start, end)


def _marked(said: str, hits: Iterable[re.Match[str]], start: int, end: int) -> str:
    parts, at = ["…" if start else ""], start
    for hit in hits:
        parts += [said[at : hit.start()], "«", hit[0], "»"]
        at = hit.end()
    return "".join((*parts, said[at:end], "…" if end < len(said) else ""))
