"""The API keeps the word of its own description: every operation, with what it allows and with what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from cli_bench import Served, serving
from properties import scaled
from sexton.gateway.http.app import ENDPOINTS
from sexton.gateway.http.openapi import openapi_document
from waiting import PATIENCE

DOCUMENT = openapi_document(ENDPOINTS)
FOUND: Any = schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in FOUND)}
ENDLESS = {"GET /api/v1/events", "GET /api/v1/conversations/{conversation}/events"}
KNOWN = {"server": "time", "job": "clock", "run": "0", "token": "editor", "delivery": "1"}
ALWAYS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
BOUNDED = settings(
    max_examples=scaled(5),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def session(served: Served) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["authorization"] = f"Bearer {(served.folder / 'token').read_text().strip()}"
        job: Any = {"name": "clock", "action": {"kind": "call", "server": "time", "tool": "now"}}
        session.post(f"{served.url}/api/v1/jobs", json=job, timeout=PATIENCE).raise_for_status()
        session.post(f"{served.url}/api/v1/tokens", json={"name": "editor"}, timeout=PATIENCE).raise_for_status()
        yield session


def strategy(operation: Any, mode: GenerationMode) -> st.SearchStrategy[Any]:
    """Cases with names that nothing has, and with those of what is there."""
    names = {name: KNOWN[name] for name in KNOWN if f"{{{name}}}" in operation.path}
    made = operation.as_strategy(generation_mode=mode)
    return st.one_of(made, operation.as_strategy(generation_mode=mode, path_parameters=names)) if names else made


CASES = [
    (label, mode)
    for label, operation in sorted(OPERATIONS.items())
    for mode in GenerationMode
    if label not in ENDLESS and (mode is GenerationMode.POSITIVE or operation.body or operation.query)
]


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_no_request_breaks_the_api_or_its_description(
    label: str, mode: GenerationMode, served: Served, session: requests.Session
) -> None:
    operation = OPERATIONS[label]

    @BOUNDED
    @given(case=strategy(operation, mode))
    def ask(case: Any) -> None:
        (case.query or {}).pop("follow", None)  # an answer without an end has no end here either
        response = case.call(base_url=served.url, session=session, timeout=PATIENCE)
        case.validate_response(response, checks=[CHECKS.get_one(name) for name in ALWAYS])

    ask()
