"""The reference of the API as a page, made from its OpenAPI document; no script, no style."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from sexton.gateway.http.openapi import openapi_document
from sexton.gateway.http.parts import Gateway


async def show_reference(_: Gateway, request: Request) -> Response:
    """The routes and the shapes of what they take and answer, for people."""
    return HTMLResponse(
        reference_page(openapi_document(request.app.state.endpoints)), headers={"cache-control": "no-store"}
    )


def reference_page(document: Mapping[str, Any]) -> str:
    """The OpenAPI document as HTML."""
    title = f"{document['info']['title']} {document['info']['version']}: the HTTP API"
    routes = "\n".join(
        _route(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "\n".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{_text(title)}</title></head><body>\n'
        f"<h1>{_text(title)}</h1>\n<p>{_text(document['info']['description'])} "
        'The same for programs: <a href="openapi.json">openapi.json</a>.</p>\n'
        f"<h2>Routes</h2>\n{routes}\n<h2>Shapes</h2>\n{schemas}\n</body></html>\n"
    )


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    scope = operation["x-sexton-scope"]
    parts = [
        f'<h3 id="{_text(operation["operationId"])}"><code>{method.upper()} {_text(path)}</code></h3>',
        f"<p>{_text(operation['summary'])} {_text(operation.get('description', ''))}</p>",
        f"<p>Needs the scope <b>{_text(scope)}</b>.</p>" if scope else "<p>Needs no token.</p>",
    ]
    if parameters := operation.get("parameters"):
        items = "".join(f"<li>{_parameter(one)}</li>" for one in parameters)
        parts.append(f"<ul>{items}</ul>")
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {_kind(body['content']['application/json']['schema'])}</p>")
    parts += _answers(operation["responses"])
    return "\n".join(parts)


def _answers(responses: Mapping[str, Any]) -> Iterator[str]:
    for code, answer in responses.items():
        for media, content in answer.get("content", {}).items():
            if code.isdecimal():
                yield f"<p>Answers {code}: {_kind(content['schema'])} ({_text(media)})</p>"


def _parameter(parameter: Mapping[str, Any]) -> str:
    about = parameter.get("description", "")
    place = "in the path" if parameter["in"] == "path" else "in the query"
    return f"<code>{_text(parameter['name'])}</code> {place}: {_kind(parameter['schema'])} {_text(about)}"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_text(key)}</code></td><td>{_kind(kind)}</td><td>{presence}</td></tr>"
        for key, kind in schema.get("properties", {}).items()
        for presence in ["" if key in required else "optional"]
    )
    table = f"<table>{rows}</table>" if rows else f"<p>{_kind(schema)}</p>"
    return f'<h3 id="{_text(name)}">{_text(name)}</h3>\n<p>{_text(schema.get("description", ""))}</p>\n{table}'


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to the shapes that it names."""
    if reference := schema.get("$ref"):
        name = _text(str(reference).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_kind, choices))
    if values := schema.get("enum"):
        return "one of " + ", ".join(f"<code>{_text(str(value))}</code>" for value in values)
    if "const" in schema:
        return f"<code>{_text(str(schema['const']))}</code>"
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(inner := schema.get("additionalProperties"), Mapping):
        return f"object of {_kind(inner)}"
    return _text(kind) + (f" (default {_text(str(schema['default']))})" if schema.get("default") is not None else "")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
