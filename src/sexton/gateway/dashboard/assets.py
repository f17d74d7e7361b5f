"""The scripts, styles and pictures of the pages: read once from the package, never from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_TYPES: Mapping[str, str] = {
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """`mark` changes with the content, so a browser may keep what it got under it for ever."""

    content: bytes
    media_type: str
    mark: str


@cache
def _assets() -> Mapping[str, Asset]:
    return dict(_found(resources.files("sexton.gateway.dashboard") / "static", ""))


def _found(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            found += _found(entry, f"{name}/")
        elif media_type := _TYPES.get(entry.name.rpartition(".")[2]):
            content = entry.read_bytes()
            mark = hashlib.sha256(content).hexdigest()[:12]
            found.append((name, Asset(content=content, media_type=media_type, mark=mark)))
    return found


def asset_url(name: str) -> str:
    """Where a page finds it.  Raises KeyError for what is not there."""
    return f"/static/{name}?{_assets()[name].mark}"


async def answer_asset(request: Request) -> Response:
    asset = _assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    is_marked = request.url.query == asset.mark
    headers = {
        "cache-control": "public, max-age=31536000, immutable" if is_marked else "no-cache",
        "etag": f'"{asset.mark}"',
    }
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
