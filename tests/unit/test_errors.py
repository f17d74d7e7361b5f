from __future__ import annotations

from sexton.errors import SextonError


def test_an_error_says_what_happened_and_then_what_to_do_next() -> None:
    error = SextonError("server 'time' did not start.", hint="set TOKEN")
    assert str(error) == "server 'time' did not start.\nNext: set TOKEN"
    assert str(SextonError("It failed.")) == "It failed."
