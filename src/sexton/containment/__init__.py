"""Processes that cannot outlive their owner."""

from __future__ import annotations

from sexton.containment.spec import Limits, StopTimes

__all__ = ["Limits", "StopTimes"]
