"""What may become of a turn of a very small model, whatever it says."""

from __future__ import annotations

ITS_OWN_FAULTS = ("2 steps", "could not be used", "in the shape that was asked for", "available context size")
"""It calls tools without end, or writes more than it may in one call, or nothing."""


def ended_by_itself(state: str, error: object) -> bool:
    """Whether a turn ended by what the model said, and by nothing that happened to it."""
    return state == "done" or (state == "failed" and any(fault in str(error) for fault in ITS_OWN_FAULTS))
