"""Templates, and what they can use.  Everything is escaped unless it was made as markup here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, final
from urllib.parse import quote

import jinja2
from starlette.responses import HTMLResponse, Response

import sexton
from sexton.gateway import figures
from sexton.gateway.dashboard.assets import asset_url
from sexton.gateway.dashboard.viewer import Viewer, brief
from sexton.redaction import Redactor

_HEADERS = {"cache-control": "no-store"}


def _path_part(text: object) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(str(text), safe="")


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _environment(redactor: Redactor) -> jinja2.Environment:
    def finalize(value: object) -> object:
        return redactor.known(value) if type(value) is str else value  # markup was text in here before

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sexton.gateway.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=finalize,
    )
    environment.filters |= {
        "age": figures.age,
        "brief": lambda seconds: "" if seconds is None else brief(seconds),
        "counted": figures.counted,
        "duration": figures.duration,
        "first_line": figures.first_line,
        "indented": _indented,
        "interval": figures.interval,
        "node_name": figures.node_name,
        "part": _path_part,
        "size": figures.size,
        "compact": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    }
    environment.globals |= {
        "asset": asset_url,
        "version": sexton.__version__,
    }
    return environment


@final
class Renderer:
    """The templates of one gateway; its known secrets leave no page."""

    def __init__(self, redactor: Redactor) -> None:
        self._environment = _environment(redactor)

    def render(self, template: str, viewer: Viewer, context: Mapping[str, Any], *, status: int = 200) -> Response:
        """The page as HTML.  Half a surrogate pair, which some servers send, becomes a question mark."""
        text = self._environment.get_template(template).render(viewer=viewer, **context)
        return HTMLResponse(text.encode("utf-8", "replace"), status, _HEADERS)
