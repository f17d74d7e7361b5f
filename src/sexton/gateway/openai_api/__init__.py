"""OpenAI's API at `/v1`: for programs that already know how to talk to a model.

Owns the routes `/v1/models`, `/v1/chat/completions` and `/v1/responses` and
their forms on the wire.  A configured model is offered under its name in the
settings, and what is asked of it is handed on to it; the model `sexton` is the
agent, with the tools of the servers.  A client that goes away ends its answer.
Who may ask is the business of `sexton.gateway.http`, turns are that of
`sexton.agent`.

Sources: https://platform.openai.com/docs/api-reference (chat, chat/streaming,
responses, responses-streaming, models).
"""

from __future__ import annotations

from sexton.gateway.openai_api.app import MAX_QUESTION, create_openai_api
from sexton.gateway.openai_api.envelope import envelope

__all__ = ["MAX_QUESTION", "create_openai_api", "envelope"]
