"""Subscriptions and log levels belong to holders, although the server knows one client."""

from __future__ import annotations

from sexton.mcp_servers.shared_state import LogLevels, SubscriptionBook


def test_only_the_last_to_unsubscribe_is_told_to_the_server() -> None:
    book: SubscriptionBook[str] = SubscriptionBook()
    book.subscribe("a", "file:///x")
    book.subscribe("b", "file:///x")
    assert book.interested("file:///x") == {"a", "b"}
    assert not book.unsubscribe("a", "file:///x")
    assert book.interested("file:///x") == {"b"}
    assert book.unsubscribe("b", "file:///x")
    assert book.interested("file:///x") == frozenset()


def test_a_part_of_a_resource_concerns_who_subscribed_to_the_whole() -> None:
    book: SubscriptionBook[str] = SubscriptionBook()
    book.subscribe("a", "file:///folder")
    assert book.interested("file:///folder/part") == {"a"}
    assert book.interested("file:///elsewhere") == frozenset()


def test_who_leaves_takes_only_what_nobody_else_wants() -> None:
    book: SubscriptionBook[str] = SubscriptionBook()
    book.subscribe("a", "file:///mine")
    book.subscribe("a", "file:///ours")
    book.subscribe("b", "file:///ours")
    assert book.leave("a") == ("file:///mine",)
    assert book.leave("a") == ()
    assert book.interested("file:///ours") == {"b"}


def test_the_server_is_asked_for_the_most_talkative_level_and_each_holder_gets_its_own() -> None:
    levels: LogLevels[str] = LogLevels()
    assert levels.ask("a", "warning") == "warning"
    assert levels.ask("b", "debug") == "debug"
    assert levels.ask("c", "error") == "debug"
    assert [holder for holder in "abc" if levels.wants(holder, "info")] == ["b"]
    assert [holder for holder in "abc" if levels.wants(holder, "warning")] == ["a", "b"]
    assert levels.wants("never asked", "debug")
    levels.leave("b")
    assert levels.ask("a", "warning") == "warning"


def test_levels_that_nobody_knows_are_passed_on() -> None:
    levels: LogLevels[str] = LogLevels()
    assert levels.ask("a", "verbose") == "verbose"
    assert levels.wants("a", "info")
    levels.ask("a", "error")
    assert levels.wants("a", "verbose")
    assert levels.wants("a", None)
