"""Results that are too long for a model at once, kept so that it can read them further, on whatever node it goes on."""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import timedelta
from typing import Final, final

from sqlalchemy import Connection, delete, func, insert, select

from sexton.clock import Clock
from sexton.database import Database, DatabaseError, kept_result
from sexton.errors import SextonError

LOG = logging.getLogger(__name__)

KEPT: Final = timedelta(days=14)
"""For how long a result is kept after it was written."""

MOST_READ: Final = 16_000
PART: Final = 64_000
"""Characters of a row, so that reading a little of a long result fetches little."""
WRITE_AGAIN_EVERY: Final = 1.0


class NoSuchFile(SextonError):
    """The model named a file that is not one of its own."""


@final
class ResultFiles:
    """To a model they are files.  A file's name says nothing and is good for its holder only.

    At most one node works for a holder at a time, so that nothing here needs its turn among the writes.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def keep(self, holder: str, text: str, *, key: str | None = None) -> str:
        """Keep the text for `holder`; return its name, which is the same for the same `key`.

        A database that is away is waited for, as what else a turn writes down.  Raises DatabaseError when trying again
        cannot help.
        """
        stem = secrets.token_hex(6) if key is None else hashlib.sha256(key.encode()).hexdigest()[:12]
        name, at, whole = f"{stem}.txt", self._clock.now(), text.encode("utf-8", "replace").decode()
        rows = [
            {"holder": holder, "name": name, "part": part, "text": whole[part * PART : (part + 1) * PART], "at": at}
            for part in range(max(1, -(-len(whole) // PART)))
        ]

        def work(connection: Connection) -> None:
            mine = (kept_result.c.holder == holder, kept_result.c.name == name)
            connection.execute(delete(kept_result).where(*mine))
            connection.execute(insert(kept_result), rows)

        while True:
            try:
                await self._database.write(work, in_turn=False)
            except DatabaseError as error:
                if not error.passing:
                    raise
                await self._clock.sleep(WRITE_AGAIN_EVERY)
            else:
                return name

    async def read(self, holder: str, name: str, *, offset: int, length: int) -> tuple[str, int]:
        """`length` characters (at most `MOST_READ`) from `offset`, and how many there are.

        Raises NoSuchFile, DatabaseError.
        """
        start = max(0, offset)
        end = start + min(max(1, length), MOST_READ)
        mine = (kept_result.c.holder == holder, kept_result.c.name == name)
        first = start // PART

        def work(connection: Connection) -> tuple[str, int]:
            total = connection.execute(select(func.sum(func.length(kept_result.c.text))).where(*mine)).scalar()
            if total is None:
                raise NoSuchFile(f"There is no kept result {name!r} in this conversation.")
            wanted = kept_result.c.part.between(first, end // PART)
            parts = select(kept_result.c.text).where(*mine, wanted).order_by(kept_result.c.part)
            return "".join(connection.execute(parts).scalars()), int(total)

        text, total = await self._database.read(work)
        return text[start - first * PART : end - first * PART], total

    async def forget(self, holder: str) -> None:
        """Remove everything of a holder; what a database that is away does not remove now, age removes."""
        try:
            await self._database.write(
                lambda connection: connection.execute(delete(kept_result).where(kept_result.c.holder == holder)),
                in_turn=False,
            )
        except DatabaseError as error:
            LOG.warning("the kept results of %s were not removed: %s", holder, error.what)

    async def forget_old(self) -> None:
        """Remove what was written more than `KEPT` ago.  Raises DatabaseError."""
        before = self._clock.now() - KEPT
        await self._database.write(
            lambda connection: connection.execute(delete(kept_result).where(kept_result.c.at < before)), in_turn=False
        )
