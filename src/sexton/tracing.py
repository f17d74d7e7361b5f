"""Spans for OpenTelemetry: what the gateway did, and how long each part of it took.

Costs next to nothing unless `sexton.daemon` was told where to send them.  A span has names and numbers, never
arguments, results or the words of an error: those are for the gateway's own eyes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, StatusCode, get_tracer

_TRACER = get_tracer("sexton")


@contextmanager
def traced(name: str, **attributes: str | float) -> Iterator[Span]:
    """A span around a block; spans that begin in it, in the same task, are its children."""
    with _TRACER.start_as_current_span(
        name, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            mark_failed(span, type(error).__name__)
            raise


def begin(name: str, **attributes: str | float) -> Span:
    """A span that somebody else ends."""
    return _TRACER.start_span(name, attributes=_named(attributes))


def end_unfinished(span: Span) -> None:
    """End a span as failed, unless it has ended."""
    if span.is_recording():
        mark_failed(span, "failed")
        span.end()


def mark_failed(span: Span, kind: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def _named(attributes: dict[str, str | float]) -> dict[str, str | float]:
    return {f"sexton.{name}": value for name, value in attributes.items()}
