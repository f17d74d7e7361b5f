"""What a person reads when something went wrong."""

from __future__ import annotations


class SextonError(Exception):
    """What happened, what we did about it, what to do next.

    `what` is one or more full sentences.  `hint` is the next step for the
    reader, an imperative without the word "Next".  Every error that a person
    can meet is a `SextonError`; any other exception that reaches them is a
    defect of ours.
    """

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\nNext: {self.hint}" if self.hint else self.what


class UsageError(SextonError):
    """The request itself was wrong: a bad option, a bad file, a name that does not exist.  Exit status 2."""
