"""Scheduled jobs and chats on MCP servers, in which no process outlives its use."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("sexton")
