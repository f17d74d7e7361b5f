"""The OpenAPI 3.1 document, made from the table of routes, the shapes of bodies and the documents (pure)."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from starlette.requests import Request
from starlette.responses import Response

import sexton
from sexton.gateway.http.body import RequestBody
from sexton.gateway.http.endpoint import Endpoint
from sexton.gateway.http.parts import Gateway

Schema = dict[str, Any]
_REF = "#/components/schemas/"
_PROBLEM: Schema = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "the stable name of the kind of problem"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "what happened, in sentences"},
        "hint": {"type": "string", "description": "the next step"},
        "nearest": {"type": "string", "description": "the nearest name that there is"},
        "needed": {"type": "string", "description": "the scope that is missing"},
        "errors": {
            "type": "array",
            "description": "what is wrong with the body, each with a JSON pointer",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_INFO = {
    "title": "Sexton",
    "version": sexton.__version__,
    "description": "Scheduled jobs and chats on MCP servers, in which no process outlives its use. Times are ISO 8601 "
    "with an offset, durations are seconds, sizes are bytes. Keys are only ever added.",
    "license": {"name": "MIT", "identifier": "MIT"},
}


async def show_openapi(_: Gateway, request: Request) -> Mapping[str, Any]:
    """This document."""
    return openapi_document(request.app.state.endpoints)


def openapi_document(endpoints: Sequence[Endpoint]) -> Schema:
    """The document that describes these routes."""
    components: dict[str, Schema] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Schema]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.full_path, {})[endpoint.method.lower()] = _operation(endpoint, components)
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "sexton_PORT",
                    "description": "a browser that was logged in; a change also needs the header X-CSRF-Token",
                },
            },
        },
    }


def _operation(endpoint: Endpoint, components: dict[str, Schema]) -> Schema:
    summary, _, description = inspect.cleandoc(endpoint.handler.__doc__ or "").partition("\n\n")
    operation: Schema = {
        "operationId": endpoint.handler.__name__,
        "summary": " ".join(summary.split()),
        "responses": _responses(endpoint, components),
        "x-sexton-scope": str(endpoint.scope) if endpoint.scope else None,
    }
    if description:
        operation["description"] = description
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {"application/json": {"schema": body_schema(endpoint.body, components)}}
        operation["requestBody"] = {"content": content, "required": _needs_body(endpoint.body)}
    if endpoint.scope is None:
        operation["security"] = []
    return operation


def _needs_body(body: type[RequestBody]) -> bool:
    return any(field.is_required() for field in body.model_fields.values())


def _parameters(endpoint: Endpoint) -> list[Schema]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", endpoint.path)
    ]
    in_query = [
        {"name": query.name, "in": "query", "description": query.about, "schema": dict(query.shape)}
        for query in endpoint.query
    ]
    return [*in_path, *in_query]


def _responses(endpoint: Endpoint, components: dict[str, Schema]) -> Schema:
    problem = {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}}}
    answer: Schema = {"description": "done"}
    if endpoint.code != _NO_CONTENT:
        answer["content"] = {endpoint.media: {"schema": _answer_schema(endpoint, components)}}
    responses = {
        str(endpoint.code): answer,
        "4XX": {"description": "It was asked wrongly, or may not be.", "content": problem},
        "5XX": {"description": "It failed.", "content": problem},
    }
    for code in endpoint.other_codes:
        responses[str(code)] = answer
    return responses


_NO_CONTENT = 204


def _answer_schema(endpoint: Endpoint, components: dict[str, Schema]) -> Schema:
    if endpoint.media != "application/json":
        return {"type": "string"}
    answer = endpoint.answer or get_type_hints(endpoint.handler)["return"]
    return {} if isinstance(answer, type) and issubclass(answer, Response) else schema_of(answer, components)


def body_schema(body: type[RequestBody], components: dict[str, Schema]) -> Schema:
    """A reference to the schema of a request's body, which is put among the components."""
    schema = body.model_json_schema(ref_template=_REF + "{model}")
    components.update(schema.pop("$defs", {}))
    components[body.__name__] = schema
    return {"$ref": f"{_REF}{body.__name__}"}


def schema_of(kind: Any, components: dict[str, Schema]) -> Schema:
    """The JSON schema of a type as the documents use them; a document is put among the components."""
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    if is_typeddict(kind):
        return _document_schema(kind, components)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, components) for one in arguments]}
    if origin is tuple:
        return {"type": "array", "prefixItems": [schema_of(one, components) for one in arguments]}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(arguments[1], components)}
    if origin is not None and issubclass(origin, Sequence):
        return {"type": "array", "items": schema_of(arguments[0], components)}
    raise TypeError(f"no JSON schema is known for {kind!r}")


_SIMPLE: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}


def _document_schema(document: Any, components: dict[str, Schema]) -> Schema:
    name = document.__name__.removesuffix("Document")
    if name not in components:
        components[name] = {}  # so that a document that contains itself comes to an end
        hints = get_type_hints(document)
        components[name] = {
            "type": "object",
            "required": sorted(document.__required_keys__),
            "properties": {key: schema_of(kind, components) for key, kind in hints.items()},
        }
        if document.__doc__ and not document.__doc__.startswith("dict("):
            components[name]["description"] = inspect.cleandoc(document.__doc__)
    return {"$ref": f"{_REF}{name}"}
