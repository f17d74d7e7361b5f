"""What was reaped, as a document (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sexton.gateway.documents import ReapDocument, TreeDocument
from sexton.gateway.plain import plain


class Recovery(Protocol):
    """What became of the trees that nobody kept any more (`sexton.containment.RecoveryReport`)."""

    @property
    def trees(self) -> Sequence[object]: ...
    @property
    def unfollowed(self) -> Sequence[object]: ...


class Sweep(Protocol):
    """The same, and the ids of the live trees that were ended, or would not end."""

    @property
    def recovery(self) -> Recovery: ...
    @property
    def ended(self) -> Sequence[str]: ...
    @property
    def stuck(self) -> Sequence[str]: ...


def dry_run_document(trees: Sequence[TreeDocument]) -> ReapDocument:
    return ReapDocument(dry_run=True, would_end=trees, recovered=[], ended=[], stuck=[], unfollowed=[])


def reap_document(recovery: Recovery, *, ended: Sequence[str] = (), stuck: Sequence[str] = ()) -> ReapDocument:
    recovered = plain(recovery.trees)
    return ReapDocument(
        dry_run=False,
        would_end=[],
        recovered=recovered,
        ended=list(ended),
        stuck=[*stuck, *(tree["tree"] for tree in recovered if tree["state"] == "stuck")],
        unfollowed=plain(recovery.unfollowed),
    )
