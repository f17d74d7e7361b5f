"""Webhooks: a POST to an address, signed as Standard Webhooks has it (https://www.standardwebhooks.com, version 1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import httpx2

import sexton
from sexton.clock import Clock
from sexton.gateway.deliveries.answers import refusal_of
from sexton.gateway.deliveries.parts import Part, TextLimits
from sexton.gateway.deliveries.target import SendDelayed

_SECRET_PREFIX = "whsec_"  # noqa: S105 it marks a secret and is none
_LONGEST_ANSWER = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """`secret` signs; it and `headers` may hold what nobody should see.  Times in seconds."""

    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Literal["json", "text"] = "json"
    timeout: float = 30.0
    give_up_after: float = 86_400.0


@final
class WebhookTarget:
    """POSTs each delivery.

    Headers: `webhook-id` (the key, the same at each attempt),
    `webhook-timestamp` and, with a secret, `webhook-signature`.  An answer of
    2xx is an arrival.  Redirects are not followed: the signature was for here.
    """

    limits = TextLimits(titles=True)

    def __init__(self, config: WebhookConfig, *, clock: Clock, http: httpx2.AsyncClient | None = None) -> None:
        self.config = config
        self._clock = clock
        self._http = http or httpx2.AsyncClient(timeout=config.timeout, follow_redirects=False)

    @property
    def give_up_after(self) -> float:
        return self.config.give_up_after

    def refusal(self, to: str | None) -> str | None:
        return None if to is None else "a webhook has no recipients, only its name"

    async def send(self, part: Part) -> str | None:
        body, content_type = _body(part, self.config.body)
        now = self._clock.now()
        stamp = str(int(now.timestamp()))
        headers = {
            "content-type": content_type,
            "user-agent": f"sexton/{sexton.__version__}",
            "webhook-id": part.key,
            "webhook-timestamp": stamp,
        }
        if self.config.secret:
            headers["webhook-signature"] = signature(self.config.secret, part.key, stamp, body)
        try:
            answer = await self._http.post(self.config.url, content=body, headers={**headers, **self.config.headers})
        except httpx2.HTTPError as error:
            raise SendDelayed(f"The webhook could not be reached: {str(error) or type(error).__name__}.") from error
        if not answer.is_success:
            said, retry_after = answer.text[:_LONGEST_ANSWER], answer.headers.get("retry-after")
            raise refusal_of(answer.status_code, who="The webhook", said=said, retry_after=retry_after, now=now)
        return None

    async def aclose(self) -> None:
        await self._http.aclose()


def signature(secret: str, key: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of `key.timestamp.body` in base64."""
    signed = f"{key}.{timestamp}.".encode() + body
    digest = hmac.digest(_key_bytes(secret), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _key_bytes(secret: str) -> bytes:
    """The secret of the specification's form (`whsec_` and base64); any other text is taken as it is."""
    if secret.startswith(_SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SECRET_PREFIX) + "==")  # Often written without its padding.
        except binascii.Error:
            return secret.encode()
    return secret.encode()


def _body(part: Part, kind: Literal["json", "text"]) -> tuple[bytes, str]:
    if kind == "text":
        text = f"{part.title}\n\n{part.text}" if part.title else part.text
        return text.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    document = {
        "type": "run.ended" if part.run else "message",
        "timestamp": part.created_at,
        "data": {"title": part.title, "text": part.text, "job": part.job, "run": part.run, **part.facts},
    }
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return body.encode("utf-8", "replace"), "application/json"
