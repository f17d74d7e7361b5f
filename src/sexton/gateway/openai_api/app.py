"""The routes of OpenAI's API."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sexton.agent import Completions, ModelConfig, ModelRelay
from sexton.errors import SextonError
from sexton.gateway.http import Gateway
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.problem import Problem, redacted
from sexton.gateway.openai_api.chat_completions import complete_chat
from sexton.gateway.openai_api.envelope import as_problem, envelope, wrong
from sexton.gateway.openai_api.relaying import relay_chat
from sexton.gateway.openai_api.requests import ChatRequest, ResponsesRequest, read
from sexton.gateway.openai_api.responses import respond_as_agent, respond_as_model

AGENT: Final = "sexton"
"""The name of the agent among the models; a configured model of this name is not offered."""

MAX_QUESTION: Final = 32 * 1024 * 1024
"""Bytes of one request: a whole conversation, with its images."""


def create_openai_api(gateway: Gateway, completions: Completions, relay: ModelRelay) -> ASGIApp:
    """The application below `/v1`, for callers who have passed the gate."""

    def model_named(name: object) -> ModelConfig | None:
        """None is the agent.  Raises Problem 404."""
        if name == AGENT:
            return None
        config = completions.config.models.get(name) if isinstance(name, str) else None
        if config is None:
            known = ", ".join(_names(completions))
            raise Problem(
                status=404,
                kind="not-found",
                what=f"There is no model {name!r}; the models are: {known}.",
                more={"param": "model", "code": "model_not_found"},
            )
        return config

    async def list_models(_: Request) -> Response:
        models = [_model_document(gateway, name) for name in _names(completions)]
        return json_response({"object": "list", "data": models})

    async def show_model(request: Request) -> Response:
        name = request.path_params["model"]
        model_named(name)
        return json_response(_model_document(gateway, name))

    async def chat(request: Request) -> Response:
        document = await _document(request)
        config = model_named(document.get("model"))
        if config is not None:
            return await relay_chat(gateway, relay, request, config, document)
        return await complete_chat(gateway, completions, request, read(ChatRequest, document))

    async def respond(request: Request) -> Response:
        document = await _document(request)
        config = model_named(document.get("model"))
        asked = read(ResponsesRequest, document)
        if config is not None:
            return await respond_as_model(gateway, relay, request, config, asked)
        return await respond_as_agent(gateway, completions, request, asked)

    async def answer_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, SextonError)
        return envelope(redacted(as_problem(error), gateway.redactor))

    return Starlette(
        routes=[
            Route("/models", list_models, methods=["GET"]),
            Route("/models/{model:path}", show_model, methods=["GET"]),
            Route("/chat/completions", chat, methods=["POST"]),
            Route("/responses", respond, methods=["POST"]),
        ],
        exception_handlers={SextonError: answer_error, HTTPException: _answer_http},
    )


def _names(completions: Completions) -> list[str]:
    return [AGENT, *(name for name in completions.config.models if name != AGENT)]


def _model_document(gateway: Gateway, name: str) -> dict[str, Any]:
    created = int(gateway.started_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "sexton"}


async def _document(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise wrong(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise wrong("The body must be a JSON object.")
    return document


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}."
    return envelope(Problem(status=error.status_code, kind="no-such-route", what=what))
