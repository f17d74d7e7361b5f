"""Finding tools by words, for clients that are not shown all of them (pure)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

SEARCH_TOOL: Final = "search_tools"
CALL_TOOL: Final = "call_tool"
DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50

_WORD: Final = re.compile(r"[a-z]+|[0-9]+")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME_WEIGHT: Final = 3.0

STAND_INS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": SEARCH_TOOL,
        "title": "Search tools",
        "description": "Find tools by words of what they do. Answers with their names, descriptions and input schemas; "
        f"call one with {CALL_TOOL}. An empty query lists the first tools of every server.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "words of what the tool should do"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            },
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": CALL_TOOL,
        "title": "Call a tool",
        "description": f"Call a tool that {SEARCH_TOOL} has found, by its name, with arguments as its schema says.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
            "required": ["name"],
        },
    },
)


def search(tools: Sequence[Mapping[str, Any]], query: str, limit: int) -> list[Mapping[str, Any]]:
    """Return the tools that fit the words of `query`, best first; an empty query fits all.

    A word counts more the fewer tools have it, and three times in a tool's
    name; one that begins a longer word counts half.
    """
    wanted = set(_words(query))
    if not wanted:
        return list(tools[:limit])
    texts = [_weights(tool) for tool in tools]
    spread = Counter(word for text in texts for word in text)
    scores = [_score(text, wanted, spread, len(tools)) for text in texts]
    ranked = sorted(range(len(tools)), key=lambda place: (-scores[place], place))
    return [tools[place] for place in ranked[:limit] if scores[place] > 0]


def _weights(tool: Mapping[str, Any]) -> dict[str, float]:
    weights: dict[str, float] = {}
    schema = tool.get("inputSchema")
    parameters = " ".join(schema.get("properties") or ()) if isinstance(schema, Mapping) else ""
    for text, weight in (
        (f"{tool.get('description') or ''} {parameters}", 1.0),
        (f"{tool['name']} {tool.get('title') or ''}", _NAME_WEIGHT),
    ):
        for word in _words(text):
            weights[word] = max(weight, weights.get(word, 0.0))
    return weights


def _score(text: Mapping[str, float], wanted: set[str], spread: Mapping[str, int], tools: int) -> float:
    return sum(_word_score(text, word, spread, tools) for word in wanted)


def _word_score(text: Mapping[str, float], word: str, spread: Mapping[str, int], tools: int) -> float:
    if word in text:
        return text[word] * math.log(1 + tools / spread[word])
    longer = [each for each in text if len(word) > 2 and each.startswith(word)]
    return max((text[each] * math.log(1 + tools / spread[each]) / 2 for each in longer), default=0.0)


def _words(text: str) -> list[str]:
    return _WORD.findall(_CAMEL.sub(" ", text).lower())
