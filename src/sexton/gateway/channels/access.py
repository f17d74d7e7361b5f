"""Who may talk to us, and what a stranger is told (pure)."""

from __future__ import annotations

import enum
import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

# Without letters and digits that look alike; eight of them are 39 bits.
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
CODE_LIVES = timedelta(hours=1)
# Strangers of one channel that are answered in an hour; the others are left without an answer.
MOST_TOLD = 10
# Wrong codes of one sender, and of all senders of a channel, in an hour.
MOST_WRONG_CODES = 5
MOST_WRONG_CODES_OF_ALL = 50
HOUR = timedelta(hours=1)


class Standing(enum.StrEnum):
    """What we know of a sender."""

    ALLOWED = "allowed"
    WAITING = "waiting"
    REFUSED = "refused"


class Verdict(enum.StrEnum):
    TAKE = "take"
    """The message is for the agent."""
    PAIR = "pair"
    """It is a code of ours: the sender is allowed from here on."""
    TELL = "tell"
    """Say once that we talk to nobody whom the owner has not let in."""
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """`allow` are senders by the platform's ids, `*` for everybody.  `tell_strangers`: once, with a code."""

    allow: frozenset[str] = field(default_factory=frozenset)
    tell_strangers: bool = True

    def admits(self, sender: str) -> bool:
        return "*" in self.allow or sender.casefold() in {one.casefold() for one in self.allow}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the database knows when a message comes in.

    `told` is whether the sender was told before, `told_lately` how many others
    were in the last hour; `wrong_codes` of the sender and `wrong_codes_of_all`
    count that hour as well.  `is_code`: the text is a code that is valid now.
    """

    standing: Standing | None
    told: bool = False
    told_lately: int = 0
    wrong_codes: int = 0
    wrong_codes_of_all: int = 0
    is_code: bool = False


def judge(rules: AccessRules, sender: str, facts: Facts, *, to_us: bool, direct: bool) -> Verdict:
    """What becomes of a message."""
    if facts.standing is Standing.REFUSED:
        return Verdict.IGNORE
    if rules.admits(sender) or facts.standing is Standing.ALLOWED:
        return Verdict.TAKE if to_us else Verdict.IGNORE
    if not direct:
        return Verdict.IGNORE  # In a room we do not speak to strangers.
    too_many = facts.wrong_codes >= MOST_WRONG_CODES or facts.wrong_codes_of_all >= MOST_WRONG_CODES_OF_ALL
    if facts.is_code and not too_many:
        return Verdict.PAIR
    if rules.tell_strangers and not facts.told and facts.told_lately < MOST_TOLD:
        return Verdict.TELL
    return Verdict.IGNORE


def new_code() -> str:
    """Such as `K7QM-2P4X`."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def code_in(text: str) -> str | None:
    """The code that `text` is, however it was typed; None if it is none."""
    letters = text.strip().upper().replace("-", "").replace(" ", "").removeprefix("/PAIR")
    if len(letters) != 8 or any(letter not in _ALPHABET for letter in letters):
        return None
    return f"{letters[:4]}-{letters[4:]}"


def code_hash(channel: str, code: str) -> str:
    """What is kept of a code that somebody may send us."""
    return hashlib.sha256(f"{channel}:{code}".encode()).hexdigest()


def is_live(made_at: datetime, now: datetime) -> bool:
    return now - made_at < CODE_LIVES


def stranger_text(channel: str, code: str) -> str:
    return (
        "I talk only to people whom my owner has let in. If you are meant to be one of them, the owner types, within "
        f"an hour:\n\nsexton channels approve {channel} {code}"
    )
