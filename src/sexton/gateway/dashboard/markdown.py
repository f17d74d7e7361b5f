"""What a model says, as HTML: Markdown without any HTML, pictures or links that do something (pure)."""

from __future__ import annotations

from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup


def markdown(text: str) -> Markup:
    """HTML in the text stays text.  Pictures become links, for fetching one would tell its server what was said."""
    return Markup(_parser().render(text))  # noqa: S704 - the parser escapes everything that it did not make


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")
    parser.add_render_rule("link_open", _open_link)
    return parser


def _open_link(self: Any, tokens: Any, place: int, options: Any, _env: Any) -> str:
    tokens[place].attrSet("target", "_blank")
    tokens[place].attrSet("rel", "noopener noreferrer nofollow")
    return str(self.renderToken(tokens, place, options, _env))
