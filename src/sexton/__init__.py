"""Scheduled jobs and chats on MCP servers, in which no process outlives its use.

Besides the program `sexton`, this package offers one thing to other programs:
`stdio_client` and `StdioServerParameters`, to be used in the place of those of
`mcp`.  They are loaded when they are first named, so that `sexton --help` is
quick.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sexton.mcp_servers.stdio_client import StdioServerParameters, stdio_client

__all__ = ["StdioServerParameters", "__version__", "stdio_client"]

__version__ = version("sexton")

_LAZY = frozenset({"StdioServerParameters", "stdio_client"})


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module("sexton.mcp_servers.stdio_client"), name)
    globals()[name] = value
    return value
