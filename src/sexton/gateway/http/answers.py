"""Documents as JSON answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sexton.redaction import Redactor

_NO_STORE = {"cache-control": "no-store"}


def json_response(document: Any, *, status: int = 200, redactor: Redactor | None = None) -> Response:
    """A document as JSON.  Half a surrogate pair, which some servers send, must not spoil a whole answer."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_plain)
    if redactor is not None:
        text = redactor.json(text)
    return Response(text.encode("utf-8", "replace"), status, _NO_STORE, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} does not belong in a document")
