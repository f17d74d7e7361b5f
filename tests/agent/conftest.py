"""What every test of turns and chats may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from process.conftest import none_left
from scripted_model import ScriptedModel, scripted_model

__all__ = ["none_left"]


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made
