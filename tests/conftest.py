"""What every test may rely on."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio; a test of what must also run on trio asks for both."""
    return "asyncio"
