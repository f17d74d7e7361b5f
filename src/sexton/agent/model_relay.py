"""Questions of others to a configured model, handed on as they are, and its answers handed back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import final

import anyio
import httpx2

from sexton.agent.local_transport import HOLDER, LocalTransport
from sexton.agent.model_config import ModelConfig, ModelFailed
from sexton.local_models import LocalModels

_PASSED_ON = ("content-type", "retry-after", "x-should-retry")


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

    def __init__(self, local_models: LocalModels | None = None) -> None:
        self._http = httpx2.AsyncClient(follow_redirects=False)
        self._local_models = local_models
        self._local: dict[ModelConfig, httpx2.AsyncClient] = {}

    async def ask(self, config: ModelConfig, body: bytes) -> Relayed:
        """Send a chat completion.  Returns when the status is known; `config.timeout` is the longest silence."""
        HOLDER.set("api")  # of this request's own task
        base = config.base_url.rstrip("/")
        url = f"{base}/v1/chat/completions" if config.provider == "anthropic" else f"{base}/chat/completions"
        headers = {"content-type": "application/json"}
        if config.api_key:
            headers["authorization"] = f"Bearer {config.api_key}"
        request = self._http.build_request("POST", url, content=body, headers=headers, timeout=config.timeout)
        try:
            return Relayed(config, await self._client(config).send(request, stream=True))
        except httpx2.HTTPError as error:
            raise _failed(config, "could not be reached", error) from error

    async def aclose(self) -> None:
        for client in (self._http, *self._local.values()):
            await client.aclose()

    def _client(self, config: ModelConfig) -> httpx2.AsyncClient:
        if config.local is None or self._local_models is None:
            return self._http
        if config not in self._local:
            self._local[config] = httpx2.AsyncClient(transport=LocalTransport(self._local_models, config))
        return self._local[config]


def _failed(config: ModelConfig, how: str, error: Exception) -> ModelFailed:
    why = str(error) or type(error).__name__
    return ModelFailed(
        f"Model {config.name!r} ({config.place}) {how}: {why}",
        hint=None if config.local else f"check that {config.base_url} is up",
    )
