"""Finding a tool by what it is for, where there are too many to list (pure)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

_WORD = re.compile(r"[a-z0-9]+")
_NAME_WEIGHT = 3.0


def find_tools(query: str, tools: Mapping[str, str], *, most: int) -> Sequence[str]:
    """The names of at most `most` tools, best first, that share words with `query`.

    `tools` is name to description.  A rare word counts for more than a common
    one, a word of the name for more than one of the description.
    """
    documents = {name: _words_of(name, description) for name, description in tools.items()}
    spread = Counter(word for words in documents.values() for word in words)
    wanted = set(_split(query))
    scores = {name: _score(wanted, words, spread, len(documents)) for name, words in documents.items()}
    ranked = sorted((name for name, score in scores.items() if score > 0), key=lambda name: (-scores[name], name))
    return ranked[:most]


def _words_of(name: str, description: str) -> dict[str, float]:
    return dict.fromkeys(_split(description), 1.0) | dict.fromkeys(_split(name), _NAME_WEIGHT)


def _split(text: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [_stem(word) for word in _WORD.findall(spaced.lower())]


def _stem(word: str) -> str:
    """`files` finds `file`."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _score(wanted: set[str], words: Mapping[str, float], spread: Counter[str], total: int) -> float:
    return sum(words[word] * math.log(1 + total / spread[word]) for word in wanted if word in words)
