"""What a server says of itself when it is greeted, in either era of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, final

from mcp import ClientSession
from mcp_types import Implementation, ServerCapabilities

_NOTHING = ServerCapabilities()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """The outcome of the handshake.  `is_modern` says that it speaks 2026-07-28 or newer."""

    protocol_version: str
    is_modern: bool = False
    server_info: Implementation | None = None
    capabilities: ServerCapabilities = field(default_factory=ServerCapabilities)
    instructions: str | None = None

    @classmethod
    def of(cls, session: ClientSession) -> Self:
        """What `session` was told; it has done its handshake."""
        assert session.protocol_version is not None
        return cls(
            protocol_version=session.protocol_version,
            is_modern=session.discover_result is not None,
            server_info=session.server_info,
            capabilities=session.server_capabilities or _NOTHING,
            instructions=session.instructions,
        )

    def has(self, feature: str) -> bool:
        """Say whether the server has `feature`: tools, prompts, resources, completions or logging."""
        return getattr(self.capabilities, feature) is not None

    def words(self) -> str | None:
        """Its name and version, for a person."""
        info = self.server_info
        return None if info is None else f"{info.name} {info.version}".strip()

    def as_document(self) -> dict[str, Any]:
        """JSON from which `of_document` makes the same again."""
        info = self.server_info
        return {
            "protocolVersion": self.protocol_version,
            "isModern": self.is_modern,
            "serverInfo": None if info is None else _plain(info),
            "capabilities": _plain(self.capabilities),
            "instructions": self.instructions,
        }

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for anything that `as_document` did not make."""
        info = document["serverInfo"]
        return cls(
            protocol_version=str(document["protocolVersion"]),
            is_modern=bool(document["isModern"]),
            server_info=None if info is None else Implementation.model_validate(info),
            capabilities=ServerCapabilities.model_validate(document["capabilities"]),
            instructions=document["instructions"],
        )


def _plain(model: Implementation | ServerCapabilities) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
