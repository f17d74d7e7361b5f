"""Processes that cannot outlive their owner."""
