"""Questions of others to a configured model, handed on as they are, and its answers handed back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import final

import anyio
import httpx2

from sexton.agent.model_config import ModelConfig, ModelFailed

_PASSED_ON = ("content-type", "retry-after")


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a model's server answers: its status, and its body as it comes.  Must be closed."""

    config: ModelConfig
    response: httpx2.Response

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> dict[str, str]:
        return {name: self.response.headers[name] for name in _PASSED_ON if name in self.response.headers}

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, decoded but not changed.  Raises ModelFailed if the connection breaks."""
        try:
            async for piece in self.response.aiter_bytes():
                yield piece
        except httpx2.HTTPError as error:
            raise _failed(self.config, "broke off", error) from error

    async def read(self) -> bytes:
        """The whole body.  Raises ModelFailed."""
        return b"".join([piece async for piece in self.pieces()])

    async def aclose(self) -> None:
        """Give the connection up; an answer that still comes is aborted."""
        with anyio.CancelScope(shield=True):
            await self.response.aclose()


@final
class ModelRelay:
    """Asks models in OpenAI's way (all providers offer it; Anthropic's base URL lacks the `/v1`)."""

    def __init__(self) -> None:
        self._http = httpx2.AsyncClient(follow_redirects=False)

    async def ask(self, config: ModelConfig, body: bytes) -> Relayed:
        """Send a chat completion.  Returns when the status is known; `config.timeout` is the longest silence."""
        base = config.base_url.rstrip("/")
        url = f"{base}/v1/chat/completions" if config.provider == "anthropic" else f"{base}/chat/completions"
        headers = {"content-type": "application/json"}
        if config.api_key:
            headers["authorization"] = f"Bearer {config.api_key}"
        request = self._http.build_request("POST", url, content=body, headers=headers, timeout=config.timeout)
        try:
            return Relayed(config, await self._http.send(request, stream=True))
        except httpx2.HTTPError as error:
            raise _failed(config, "could not be reached", error) from error

    async def aclose(self) -> None:
        await self._http.aclose()


def _failed(config: ModelConfig, how: str, error: Exception) -> ModelFailed:
    why = str(error) or type(error).__name__
    return ModelFailed(
        f"Model {config.name!r} ({config.base_url}) {how}: {why}", hint=f"check that {config.base_url} is up"
    )
