"""What a model is given of a tool's result: text and images, bounded (pure, but for the file of the rest)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sexton.agent.messages import Attachment
from sexton.mcp_servers import CallToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """A result as text and images, before it is marked and cut."""

    text: str
    images: tuple[Attachment, ...] = ()
    is_error: bool = False


def read_result(result: CallToolResult) -> ToolAnswer:
    """All that a result holds.  What is neither text nor image is named with its size."""
    blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
    text = "\n".join(filter(None, map(_text_of, blocks)))
    if not text and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False, indent=1)
    return ToolAnswer(text=text, images=tuple(_images(blocks)), is_error=bool(result.is_error))


def cut(text: str, limit: int) -> tuple[str, bool]:
    """The first `limit` characters, at the end of a line where one is near; and whether that is not all."""
    if len(text) <= limit:
        return text, False
    head = text[:limit]
    line_end = head.rfind("\n")
    return (head[:line_end] if line_end > limit * 3 // 4 else head), True


def _text_of(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)} | {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "image"}:
            return ""
        case {"type": "resource", "resource": {"uri": uri, "blob": str(data)}}:
            return f"[file {uri}, {len(data) * 3 // 4} bytes]"
        case {"type": "resource_link", "uri": uri, "name": name}:
            return f"[link {name}: {uri}]"
        case {"type": kind, "data": str(data), **rest}:
            return f"[{kind} {rest.get('mimeType', '')}, {len(data) * 3 // 4} bytes]"
        case other:
            return json.dumps(other, ensure_ascii=False)


def _images(blocks: Sequence[Mapping[str, Any]]) -> Sequence[Attachment]:
    found = []
    for block in blocks:
        match block:
            case {"type": "image", "mimeType": str(mime), "data": str(data)}:
                try:
                    found.append(Attachment(mime, base64.b64decode(data, validate=False)))
                except binascii.Error:  # a server's fault, which must not spoil the rest of its answer
                    continue
    return found
