"""JSON with comments and trailing commas, as editors keep their settings (pure)."""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|(?<![{\[,\s]),(?=(?:\s|//[^\n]*\n|/\*.*?\*/)*[}\]])', re.DOTALL
)


def parse_jsonc(text: str) -> Any:
    """What `text` holds.  Raises json.JSONDecodeError with the line and column of `text` itself."""
    return json.loads(_TOKEN.sub(_blanked, text.removeprefix("\ufeff")))


def _blanked(found: re.Match[str]) -> str:
    # Blanks and line breaks stay, so that an error names the right place.
    return found[0] if found[0].startswith('"') else re.sub(r"[^\n]", " ", found[0])
