"""What the comparison of two runs of the conformance suite calls worse, and what the token proxy changes."""

from __future__ import annotations

import pytest

from conformance.comparison import score, table, worse
from conformance.suite import Finding
from conformance.token_proxy import TokenProxy, body_length


def finding(check: str, status: str, scenario: str = "tools-list") -> Finding:
    return Finding(scenario=scenario, check=check, status=status)


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.status) for each in findings]


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SKIPPED", "INFO"])
def test_a_check_that_passes_directly_must_pass_through_the_gateway(status: str) -> None:
    assert names(worse([finding("a", "SUCCESS")], [finding("a", status)])) == [("a", status)]


def test_a_check_that_was_not_made_through_the_gateway_is_worse() -> None:
    assert names(worse([finding("a", "SUCCESS")], [])) == [("a", "MISSING")]


def test_a_check_that_only_fails_through_the_gateway_is_worse() -> None:
    """Some checks are only made when something is wrong."""
    assert names(worse([finding("a", "SUCCESS")], [finding("a", "SUCCESS"), finding("b", "FAILURE")])) == [
        ("b", "FAILURE")
    ]


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SKIPPED", "INFO"])
def test_what_does_not_pass_directly_may_do_as_it_likes(status: str) -> None:
    assert worse([finding("a", status)], [finding("a", "FAILURE")]) == []


def test_a_check_that_is_made_several_times_counts_as_its_worst() -> None:
    direct = [finding("a", "SUCCESS"), finding("a", "SUCCESS")]
    assert names(worse(direct, [finding("a", "SUCCESS"), finding("a", "FAILURE")])) == [("a", "FAILURE")]


def test_checks_of_the_same_name_in_two_scenarios_are_two() -> None:
    direct = [finding("a", "SUCCESS", "tools-list"), finding("a", "SUCCESS", "ping")]
    through = [finding("a", "SUCCESS", "tools-list"), finding("a", "FAILURE", "ping")]
    assert [each.scenario for each in worse(direct, through)] == ["ping"]


@pytest.mark.parametrize(("status", "spoiled"), [("INFO", []), ("WARNING", [("a", "WARNING")])])
def test_an_optional_check_need_not_be_made_and_must_not_fail(status: str, spoiled: list[tuple[str, str]]) -> None:
    assert names(worse([finding("a", "SUCCESS")], [finding("a", status)], optional={"a"})) == spoiled
    assert worse([finding("a", "SUCCESS")], [], optional={"a"}) == []


def test_the_score_counts_each_check_and_warnings_as_failed() -> None:
    findings = [finding(f"{number}", status) for number, status in enumerate(("SUCCESS", "INFO", "WARNING", "FAILURE"))]
    assert str(score(findings)) == "1/2"


def test_the_table_is_markdown() -> None:
    assert table([["", "a"], ["direct", "84/0"]]) == "|        | a    |\n|--------|------|\n| direct | 84/0 |"


def test_the_proxy_adds_the_token_and_names_the_gateway_where_it_was_named() -> None:
    proxy = TokenProxy(own="127.0.0.1:7", target="127.0.0.1:9", token="secret")
    head = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:7\r\nOrigin: http://127.0.0.1:7\r\nContent-Length: 3\r\n\r\n"
    assert proxy.admitted(head) == (
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:9\r\nOrigin: http://127.0.0.1:9\r\nContent-Length: 3\r\n"
        b"Authorization: Bearer secret\r\n\r\n"
    )
    assert body_length(head) == 3


def test_the_proxy_leaves_a_foreign_host_foreign() -> None:
    proxy = TokenProxy(own="127.0.0.1:7", target="127.0.0.1:9", token="secret")
    assert b"Host: evil.example\r\n" in proxy.admitted(b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\n\r\n")


def test_a_request_without_a_body_has_none() -> None:
    assert body_length(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:7\r\n\r\n") == 0
