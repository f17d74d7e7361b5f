"""Headers that every answer carries, whoever wrote it: what a browser may do with it."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# No inline script or style anywhere, nothing from elsewhere, no frame around us.
POLICY = (
    "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "img-src 'self' data:"
)
_HEADERS = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }.items()
)
_NAMES = frozenset({b"date", *(name for name, _ in _HEADERS)})


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


@final
class SafeHeaders:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [header for header in message.get("headers", ()) if header[0].lower() not in _NAMES]
                message = {**message, "headers": [*own, (b"date", _date(int(time.time()))), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_safely)
