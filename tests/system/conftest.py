"""One gateway for a test, with the proof that it leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import database_at
from sexton.database import PostgresUrl
from system.gateway_process import GatewayProcess


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path)
    location = database_at(made.data / "sexton.db")
    made.database = location.text if isinstance(location, PostgresUrl) else None
    try:
        yield made
    finally:
        made.close()
