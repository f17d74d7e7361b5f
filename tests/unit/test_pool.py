"""The pool's decisions, on servers without processes.  Races are forced: one side is held at a gate."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import CallToolResult, TextContent

from fake_clock import settle
from fake_servers import Bench, FakeServers, bench, exclusive, server, tool
from sexton.containment import TreeStuck
from sexton.errors import SextonError
from sexton.mcp_servers import (
    CallRefused,
    ConnectFailed,
    NoPlace,
    NotWritten,
    PoolClosed,
    ServerConfig,
    ServerDied,
    ServerState,
    ServerUnavailable,
    ToolDenied,
    ToolFilter,
    UnknownServer,
)
from sexton.mcp_servers.breaker import BreakerState

pytestmark = pytest.mark.anyio

FAILURE = SextonError("server 'files' ended with status 1 before the handshake was done (0.4 s after its start).")


async def call(running: Bench, name: str, tool: str = "echo", *, holder: str = "run:1") -> str:
    """One call under a lease of its own: the name of the process that answered."""
    async with running.pool.lease(name, holder=holder) as lease:
        return text_of(await lease.call_tool(tool, {}))


def text_of(result: CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


# Starting


async def test_every_call_is_told_with_how_it_ended(tmp_path: Path) -> None:
    async with (
        bench(tmp_path, server("files")) as running,
        running.pool.lease("files", holder="a") as lease,
        anyio.create_task_group() as tasks,
    ):
        await lease.call_tool("echo")
        await lease.call_tool("fail")
        with suppress(SextonError):
            await lease.call_tool("refuse")
        tasks.start_soon(lease.call_tool, "hang")
        await settle()
        await running.clock.advance(2)
        tasks.cancel_scope.cancel()
    assert running.calls == [
        ("files", "ok", 0.0),
        ("files", "error", 0.0),
        ("files", "failed", 0.0),
        ("files", "cancelled", 2.0),
    ]


async def test_nothing_starts_before_somebody_needs_it(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), server("time")) as running:
        await running.clock.advance(1000)
        assert running.servers.started == []
        assert await call(running, "files") == "files#1"
        assert running.servers.started == ["files#1"]


async def test_two_first_callers_start_one_process_and_share_it(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        first, second = running.hold("files", "run:1"), running.hold("files", "chat:2")
        await settle()
        assert (first.got, second.got, running.servers.started) == (None, None, ["files#1"])
        running.servers.starting.open()
        await settle()
        assert (first.got, second.got, running.servers.started) == ("files#1", "files#1", ["files#1"])
        assert running.events("shared")[0].data["holders"] == ["run:1", "chat:2"]


async def test_a_holder_cancelled_while_it_waits_for_a_start_does_not_end_it_for_others(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        first, second = running.hold("files", "run:1"), running.hold("files", "run:2")
        await settle()
        await first.cancel()
        running.servers.starting.open()
        await settle()
        assert (second.got, running.servers.started) == ("files#1", ["files#1"])
        assert running.holders("files") == ("run:2",)


async def test_a_start_that_nobody_waits_for_any_more_is_given_up_and_its_process_gone(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        holders = [running.hold("files", f"run:{n}") for n in range(3)]
        await settle()
        for holder in holders:
            await holder.cancel()
        assert running.servers.alive == []
        assert [event.data["reason"] for event in running.events("gone")] == ["not_needed"]
        assert running.pool.status()[0].breaker_status.failures == 0
        running.servers.starting.open()
        assert await call(running, "files") == "files#2"


async def test_a_start_given_up_in_the_moment_it_succeeds_hands_nobody_a_dying_server(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        first = running.hold("files", "run:1")
        await settle()
        first.scope.cancel()  # both in the same turn of the loop, in this order
        running.servers.starting.open()
        second = running.hold("files", "run:2")
        await settle()
        assert second.got in running.servers.alive
        assert running.servers.alive == [second.got]


async def test_a_holder_cancelled_in_the_moment_of_its_grant_gives_it_back(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        first, second = running.hold("files", "run:1"), running.hold("files", "run:2")
        await settle()
        running.servers.starting.open()
        while not running.holders("files"):
            await anyio.lowlevel.checkpoint()
        assert (first.got, set(running.holders("files"))) == (None, {"run:1", "run:2"})
        await first.cancel()
        assert [second.got, *running.holders("files")] == ["files#1", "run:2"]


# Ending


async def test_an_idle_server_is_retired_and_a_held_one_is_not(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", idle_timeout=60)) as running:
        holder = running.hold("files", "chat:1")
        await running.clock.advance(1000)
        assert running.servers.alive == ["files#1"]
        await holder.leave()
        await running.clock.advance(59.9)
        assert running.servers.alive == ["files#1"]
        await running.clock.advance(0.2)
        assert running.servers.alive == []
        assert running.events("retired")[0].data["reason"] == "idle"
        assert running.pool.status()[0].state is ServerState.STOPPED


async def test_each_use_starts_the_idle_time_again(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", idle_timeout=60)) as running:
        for _ in range(5):
            assert await call(running, "files") == "files#1"
            await running.clock.advance(59)
        assert running.servers.started == ["files#1"]


async def test_a_lease_asked_for_during_a_stop_waits_and_gets_a_fresh_server(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", idle_timeout=60)) as running:
        await call(running, "files")
        running.servers.stopping.close()
        await running.clock.advance(60)
        await running.servers.stopping.reached.wait()  # the sweep can no longer turn back
        turn_2 = running.hold("files", "turn-2")
        await settle()
        assert (turn_2.got, running.servers.started) == (None, ["files#1"])
        running.servers.stopping.open()
        await settle()
        assert turn_2.got == "files#2"
        assert running.servers.most_alive == {"files": 1}


async def test_an_old_server_is_recycled_between_uses_and_never_beside_its_successor(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", max_age=100, idle_timeout=1000)) as running:
        first = running.hold("files", "chat:1")
        await running.clock.advance(500)
        second = running.hold("files", "chat:2")  # joins the old one: its successor must not run beside it
        await settle()
        assert second.got == "files#1"
        await first.leave()
        assert running.servers.alive == ["files#1"]
        await second.leave()
        assert running.servers.alive == []
        assert await call(running, "files") == "files#2"
        await running.clock.advance(100)
        assert [event.data["reason"] for event in running.events("retired")] == ["max_age", "max_age"]
        assert running.servers.most_alive == {"files": 1}


async def test_a_server_is_recycled_after_max_calls(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", max_calls=2)) as running:
        assert [await call(running, "files") for _ in range(5)] == [
            "files#1",
            "files#1",
            "files#2",
            "files#2",
            "files#3",
        ]
        assert running.servers.most_alive == {"files": 1}


async def test_stopping_the_pool_ends_all_servers_and_refuses_who_waits(tmp_path: Path) -> None:
    fakes = FakeServers()
    async with bench(tmp_path, server("files"), server("slow"), servers=fakes) as running:
        await call(running, "files")
        fakes.starting.close()
        waiting = running.hold("slow", "run:1")
        await settle()
    assert isinstance(waiting.error, PoolClosed)
    with pytest.raises(PoolClosed):
        await call(running, "files")


async def test_a_server_whose_end_cannot_be_proven_is_told_and_does_not_block_the_next_one(tmp_path: Path) -> None:
    fakes = FakeServers(stop_failure=TreeStuck("process 42 of 'files' does not end.", stuck=()))
    async with bench(tmp_path, server("files"), servers=fakes) as running:
        await call(running, "files")
        await running.clock.advance(60)
        assert [event.data["error"] for event in running.events("stuck")] == ["process 42 of 'files' does not end."]
        assert running.events("gone") == []
        fakes.stop_failure = None
        assert await call(running, "files") == "files#2"
        assert running.pool.status()[0].breaker_status.failures == 0


# Keeping warm


async def test_a_server_kept_warm_starts_with_the_pool_and_is_never_retired_for_being_idle(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", keep_warm=True, idle_timeout=1)) as running:
        await running.clock.advance(1000)
        assert (running.servers.alive, running.servers.started) == (["files#1"], ["files#1"])


async def test_a_server_kept_warm_comes_back_when_it_dies_with_growing_waits(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", keep_warm=True)) as running:
        await settle()
        running.servers.all["files#1"].die()
        await settle()
        assert running.servers.alive == ["files#2"]  # the first time at once
        running.servers.all["files#2"].die()
        await settle()
        assert running.servers.alive == []
        await running.clock.advance(19.9)
        assert running.servers.alive == []
        await running.clock.advance(0.2)
        assert running.servers.alive == ["files#3"]


async def test_a_server_kept_warm_that_ends_at_once_is_not_started_in_a_storm(tmp_path: Path) -> None:
    """Ending in good order while idle is no failure of other servers, but this one would start again and again."""
    async with bench(tmp_path, server("files", keep_warm=True)) as running:
        await settle()
        for name in ("files#1", "files#2"):
            running.servers.all[name].die(returncode=0)
            await settle()
        assert running.servers.started == ["files#1", "files#2"]
        await running.clock.advance(21)
        assert running.servers.started == ["files#1", "files#2", "files#3"]


# Exclusive servers


async def test_an_exclusive_server_has_a_process_per_holder_and_others_queue_for_a_place(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("browser", max_processes=2)) as running:
        holders = [running.hold("browser", f"chat:{n}") for n in range(4)]
        await settle()
        assert [holder.got for holder in holders] == ["browser#1", "browser#2", None, None]
        assert running.pool.status()[0].waiting == ("chat:2", "chat:3")
        await holders[1].leave()
        assert [holder.got for holder in holders] == ["browser#1", "browser#2", "browser#3", None]
        await holders[0].leave()
        assert holders[3].got == "browser#4"
        assert running.servers.most_alive == {"browser": 2}


async def test_an_exclusive_process_waits_for_its_holder_to_return_and_for_nobody_else(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("browser")) as running:
        assert await call(running, "browser", holder="chat:1") == "browser#1"
        assert await call(running, "browser", holder="chat:2") == "browser#2"
        assert await call(running, "browser", holder="chat:1") == "browser#1"
        await running.clock.advance(60)
        assert running.servers.alive == []


async def test_an_exclusive_process_ends_at_once_after_a_holder_that_will_not_return(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("browser")) as running:
        async with running.pool.lease("browser", holder="run:1", returns=False):
            assert running.servers.alive == ["browser#1"]
        await settle()
        assert running.servers.alive == []


async def test_an_exclusive_process_ends_when_its_holder_says_farewell(tmp_path: Path) -> None:
    """A client of the endpoint ends between its calls; somebody else's process is not touched, nor one that is held."""
    async with bench(tmp_path, exclusive("browser"), server("files")) as running:
        for holder in ("mcp:a", "mcp:b"):
            async with running.pool.lease("browser", holder=holder):
                await settle()
        held = running.hold("browser", "mcp:c")
        await settle()
        assert running.servers.alive == ["browser#1", "browser#2", "browser#3"]
        running.pool.farewell("mcp:a")
        running.pool.farewell("mcp:c")
        running.pool.farewell("nobody")
        await settle()
        assert running.servers.alive == ["browser#2", "browser#3"]
        await held.leave()


async def test_what_a_server_said_of_itself_is_known_without_starting_it(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        assert (await running.pool.introduction("files")).words() == "files#1 1"
        await running.clock.advance(61)
        assert running.servers.alive == []
        assert (await running.pool.introduction("files")).words() == "files#1 1"
        assert running.servers.started == ["files#1"]


async def test_followers_hear_of_every_list_that_changes(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        heard: list[tuple[str, str]] = []
        running.pool.follow(lambda name, method: heard.append((name, method)))
        async with running.pool.lease("files", holder="run:1"):
            await settle()
            running.servers.all["files#1"].news.tell("notifications/prompts/list_changed")
            assert heard == [("files", "notifications/prompts/list_changed")]
            running.servers.all["files#1"].news.tell("notifications/tools/list_changed")
            assert len(heard) == 1  # the catalogue has the old ones still
            running.servers.all["files#1"].change_tools("write")
            await settle()
            assert heard[1:] == [("files", "notifications/tools/list_changed")]
            assert [each.name for each in running.pool.known_tools("files") or ()] == ["write"]


async def test_waiting_for_a_place_ends_after_connect_timeout_and_says_who_has_them(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("browser", max_processes=1, connect_timeout=30)) as running:
        running.hold("browser", "chat:1")
        await settle()
        late = running.hold("browser", "chat:2")
        await running.clock.advance(29)
        assert not late.left.is_set()
        await running.clock.advance(2)
        assert isinstance(late.error, NoPlace)
        assert late.error.what == "server 'browser' could not be had within 30 s: its one process is held by chat:1."


# Death


async def test_the_death_of_a_server_shows_at_once_and_the_next_holder_gets_a_fresh_one(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        holder = running.hold("files", "chat:1")
        await settle()
        running.servers.all["files#1"].die("Segmentation fault", returncode=139)
        await settle()
        [died] = running.events("died")
        assert (died.data["last_words"], died.data["holders"]) == ("Segmentation fault", ["chat:1"])
        assert running.holders("files") == ()
        assert await call(running, "files") == "files#2"
        await holder.leave()
        assert running.holders("files") == ()


async def test_no_fresh_server_starts_before_the_end_of_a_dead_one_is_proven(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await call(running, "files")
        running.servers.stopping.close()
        running.servers.all["files#1"].die()
        second = running.hold("files", "run:2")
        await settle()
        assert (second.got, running.servers.started) == (None, ["files#1"])
        running.servers.stopping.open()
        await settle()
        assert second.got == "files#2"


async def test_a_call_that_the_server_may_have_received_is_never_repeated(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        async with running.pool.lease("files", holder="chat:1") as lease, anyio.create_task_group() as tasks:
            tasks.start_soon(expect_death, lease.call_tool("hang"))
            await settle()
            running.servers.all["files#1"].die("out of memory")
        assert running.servers.started == ["files#1"]
        assert running.servers.all["files#1"].received == ["hang"]


async def expect_death(calling: Coroutine[Any, Any, object]) -> None:
    with pytest.raises(ServerDied, match="out of memory") as caught:
        await calling
    assert not isinstance(caught.value, NotWritten)


async def test_a_call_that_was_never_sent_is_made_once_more_on_a_fresh_process(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        async with running.pool.lease("files", holder="chat:1") as lease:
            running.servers.all["files#1"].die(noticed=False)  # the pool does not know it yet
            answers: list[str] = []

            async def ask() -> None:
                answers.append(text_of(await lease.call_tool("echo")))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(ask)
            assert answers == ["files#2", "files#2"]
            assert running.servers.all["files#2"].visitors == ["chat:1"]  # one fresh connection for both
            assert lease.process == "files#2"
            assert running.holders("files") == ("chat:1",)
        assert running.holders("files") == ()
        assert running.servers.started == ["files#1", "files#2"]


async def test_the_process_of_an_exclusive_server_is_never_replaced_behind_its_holder(tmp_path: Path) -> None:
    async with bench(tmp_path, exclusive("browser")) as running:
        async with running.pool.lease("browser", holder="chat:1") as lease:
            running.servers.all["browser#1"].die()
            await settle()
            with pytest.raises(NotWritten):
                await lease.call_tool("echo")
        assert running.servers.started == ["browser#1"]


async def test_a_process_that_dies_between_grant_and_use_is_passed_by(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await call(running, "files")
        running.servers.connecting.close()
        holder = running.hold("files", "run:2")
        await settle()
        running.servers.all["files#1"].die(noticed=False)
        running.servers.connecting.open()
        await settle()
        assert (holder.got, running.servers.alive) == ("files#2", ["files#2"])


async def test_a_server_that_can_be_reached_no_more_is_connected_to_anew(tmp_path: Path) -> None:
    async with bench(tmp_path, server("remote")) as running:
        await call(running, "remote")
        running.servers.all["remote#1"].turns_away = ConnectFailed("server 'remote' cannot be reached.")
        assert await call(running, "remote") == "remote#2"
        assert running.servers.alive == ["remote#2"]


async def test_a_holder_that_is_turned_away_does_not_end_the_connection_of_others(tmp_path: Path) -> None:
    async with bench(tmp_path, server("remote")) as running:
        holder = running.hold("remote", "chat:1")
        await settle()
        running.servers.all["remote#1"].turns_away = ConnectFailed("server 'remote' wants fewer requests (HTTP 429).")
        with pytest.raises(ConnectFailed, match="429"):
            await call(running, "remote")
        assert running.holders("remote") == ("chat:1",)
        assert running.servers.started == ["remote#1"]
        await holder.leave()


async def test_a_server_that_ends_in_good_order_while_idle_has_not_failed(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await call(running, "files")
        running.servers.all["files#1"].die(returncode=0)
        await settle()
        assert running.pool.status()[0].breaker_status.failures == 0


# The breaker


async def test_a_failed_start_says_what_happened_what_we_do_and_what_to_do(tmp_path: Path) -> None:
    fakes = FakeServers(failure=SextonError(FAILURE.what, hint="set TOKEN under [servers.files.env]"))
    async with bench(tmp_path, server("files"), servers=fakes) as running:
        with pytest.raises(ServerUnavailable) as caught:
            await call(running, "files")
    assert str(caught.value) == (
        "server 'files' ended with status 1 before the handshake was done (0.4 s after its start).\n"
        "  We try again in 10 s (attempt 2 of 3).\n"
        "Next: set TOKEN under [servers.files.env]; then run: sexton servers check files"
    )


async def test_who_asks_during_the_wait_is_told_at_once_and_nothing_is_started(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), servers=FakeServers(failure=FAILURE)) as running:
        await running.hold("files", "run:1").left.wait()
        with pytest.raises(ServerUnavailable, match=r"failed once.\n  We try again in 10 s \(attempt 2 of 3\)"):
            await call(running, "files")
        assert running.servers.started == ["files#1"]
        assert running.pool.status()[0].state is ServerState.BACKING_OFF


async def test_after_its_attempts_a_server_is_broken_and_one_probe_finds_out_whether_it_works(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), servers=FakeServers(failure=FAILURE)) as running:
        for wait in (10, 20):
            await running.hold("files", "run:1").left.wait()
            await running.clock.advance(wait)
        await running.hold("files", "run:1").left.wait()
        status = running.pool.status()[0]
        assert (status.state, status.breaker) == (ServerState.BROKEN, BreakerState.OPEN)
        await running.clock.advance(300)
        assert len(running.events("breaker_open")) == 1
        running.servers.failure = None
        running.servers.starting.close()
        probe, other = running.hold("files", "run:2"), running.hold("files", "run:3")
        await settle()
        assert running.servers.started == ["files#1", "files#2", "files#3", "files#4"]
        running.servers.starting.open()
        await settle()
        assert (probe.got, other.got) == ("files#4", "files#4")
        await call(running, "files")
        assert running.pool.status()[0].breaker is BreakerState.CLOSED


async def test_all_who_waited_for_a_start_that_failed_are_told_and_none_starts_another(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), servers=FakeServers(failure=FAILURE)) as running:
        running.servers.starting.close()
        holders = [running.hold("files", f"run:{n}") for n in range(5)]
        await settle()
        running.servers.starting.open()
        await settle()
        assert all(isinstance(holder.error, ServerUnavailable) for holder in holders)
        assert running.servers.started == ["files#1"]


async def test_a_tool_that_fails_or_refuses_is_an_answer_and_locks_nobody_out(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        async with running.pool.lease("files", holder="chat:1") as lease:
            for _ in range(10):
                assert (await lease.call_tool("fail")).is_error
                with pytest.raises(CallRefused, match="Invalid params"):
                    await lease.call_tool("refuse")
        assert running.pool.status()[0].breaker is BreakerState.CLOSED
        assert await call(running, "files") == "files#1"


async def test_a_crash_loop_is_slowed_down_even_though_each_start_works(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        for n in (1, 2):
            holder = running.hold("files", "run:1")
            await settle()
            running.servers.all[f"files#{n}"].die()
            await settle()
            await holder.leave()
        with pytest.raises(ServerUnavailable, match="failed 2 times in a row"):
            await call(running, "files")


async def test_a_restart_lets_a_broken_server_try_again_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), servers=FakeServers(failure=FAILURE)) as running:
        await running.hold("files", "run:1").left.wait()
        running.servers.failure = None
        await running.pool.restart("files")
        assert await call(running, "files") == "files#2"


# Restart and new settings


async def test_a_restart_ends_the_old_process_first_and_lets_its_holder_finish(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        holder = running.hold("files", "chat:1")
        await settle()
        running.tasks.start_soon(running.pool.restart, "files")
        await settle()
        waiting = running.hold("files", "chat:2")
        await settle()
        assert (running.servers.alive, waiting.got) == (["files#1"], None)
        await holder.leave()
        assert (running.servers.alive, waiting.got) == (["files#2"], "files#2")
        assert running.servers.most_alive == {"files": 1}


async def test_a_restart_takes_the_process_away_when_its_holder_had_its_time(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        holder = running.hold("files", "chat:1")
        await settle()
        running.tasks.start_soon(running.pool.restart, "files")
        await running.clock.advance(11)
        assert running.servers.alive == []
        assert running.events("taken_away")[0].data["holders"] == ["chat:1"]
        assert await call(running, "files") == "files#2"
        await holder.leave()


async def test_new_settings_touch_only_what_changed(tmp_path: Path) -> None:
    old = [server("same"), server("other"), server("shorter"), server("gone")]
    async with bench(tmp_path, *old) as running:
        for config in old:
            await call(running, config.name)
        new = [server("same"), server("other", command="x"), server("shorter", idle_timeout=5), server("new")]
        await running.pool.reconfigure({config.name: config for config in new})
        await settle()
        assert running.servers.alive == ["same#1", "shorter#1"]
        await running.clock.advance(5)
        assert running.servers.alive == ["same#1"]
        assert await call(running, "other") == "other#2"
        assert await call(running, "new") == "new#1"
        with pytest.raises(UnknownServer):
            await call(running, "gone")


async def test_who_waits_for_a_server_that_is_taken_out_of_the_settings_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.starting.close()
        holder = running.hold("files", "run:1")
        await settle()
        await running.pool.reconfigure({})
        await settle()
        assert isinstance(holder.error, UnknownServer)
        assert running.servers.alive == []


# Tools


async def test_listing_tools_starts_a_server_only_if_it_was_never_asked(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as first:
        assert [each.name for each in await first.pool.tools("files")] == ["echo", "hang", "fail", "refuse"]
        assert first.servers.started == ["files#1"]
    async with bench(tmp_path, server("files"), server("copy", command="files")) as second:
        for name in ("files", "copy"):
            assert [each.name for each in await second.pool.tools(name)] == ["echo", "hang", "fail", "refuse"]
        assert second.servers.started == []


async def test_a_changed_list_of_tools_replaces_the_kept_one(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await call(running, "files")
        running.servers.all["files#1"].change_tools("read", "write")
        await settle()
        assert [each.name for each in await running.pool.tools("files")] == ["read", "write"]


async def test_a_denied_tool_is_refused_before_the_server_is_asked(tmp_path: Path) -> None:
    denying = server("files", tools=ToolFilter(deny=("fail",)))
    async with bench(tmp_path, denying) as running:
        async with running.pool.lease("files", holder="job:x", allow=ToolFilter(allow=("echo",))) as lease:
            with pytest.raises(ToolDenied, match=r"by .servers.files.|\[servers.files\] does not let it through"):
                await lease.call_tool("fail")
            with pytest.raises(ToolDenied, match="job:x does not let it through"):
                await lease.call_tool("hang")
            await lease.call_tool("echo")
            assert [each.name for each in await lease.list_tools()] == ["echo"]
        assert running.servers.all["files#1"].received == ["echo"]
        assert "fail" not in [each.name for each in await running.pool.tools("files")]


async def test_an_entry_that_matches_no_tool_is_warned_about_once(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files", tools=ToolFilter(deny=("wirte_*",)))) as running:
        for _ in range(3):
            await call(running, "files")
            await running.clock.advance(61)
        assert [event.data["warnings"] for event in running.events("warning")] == [
            ["[servers.files] tools: 'wirte_*' matches none of its tools"]
        ]
        assert running.pool.status()[0].warnings


async def test_an_entry_of_a_holders_list_that_matches_no_tool_is_warned_about_once(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        await running.pool.tools("files")
        for number in range(3):
            async with running.pool.lease("files", holder=f"run:{number}", allow=ToolFilter(allow=("echo", "ehco"))):
                pass
        assert [event.data["warnings"] for event in running.events("warning")] == [
            ["'ehco' in the list of tools of run:0 matches none of its tools"]
        ]


async def test_all_tools_by_one_name_each(tmp_path: Path) -> None:
    fakes = FakeServers(tools={"a": (tool("b__c"),), "a__b": (tool("c"),), "d": (tool("e"),)})
    async with bench(tmp_path, server("a"), server("a__b"), server("d"), servers=fakes) as running:
        named = await running.pool.named_tools(["a", "d"])
        assert {name: (entry.server, entry.tool.name) for name, entry in named.items()} == {
            "a__b__c": ("a", "b__c"),
            "d__e": ("d", "e"),
        }
        with pytest.raises(SextonError, match="tool 'b__c' of server 'a' and tool 'c' of server 'a__b'"):
            await running.pool.named_tools()


async def test_a_check_reports_what_works_and_what_does_not(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        report = await running.pool.check("files")
        assert (report.ok, report.server_info, len(report.tools)) == (True, "files#1 1", 4)
        await running.pool.restart("files")
        running.servers.failure = FAILURE
        report = await running.pool.check("files")
        assert (report.ok, report.hint, report.cause) == (False, FAILURE.hint, FAILURE)
        assert report.error is not None
        assert report.error.startswith(FAILURE.what)
        running.servers.failure = None
        assert (await running.pool.check("files")).ok  # at once: a person asked


async def test_an_unknown_server_is_told_apart_and_the_nearest_name_given(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files")) as running:
        for using in (call(running, "flies"), running.pool.restart("flies"), running.pool.check("flies")):
            with pytest.raises(UnknownServer, match="did you mean 'files'"):
                await using


async def test_the_status_shows_who_holds_what(tmp_path: Path) -> None:
    async with bench(tmp_path, server("files"), exclusive("browser")) as running:
        holders = [running.hold("files", "chat:1"), running.hold("files", "run:2"), running.hold("browser", "chat:1")]
        await running.clock.advance(12)
        browser, files = running.pool.status()
        assert (files.state, files.holders, files.age, files.tools) == (ServerState.RUNNING, ("chat:1", "run:2"), 12, 4)
        assert [process.id for process in browser.processes] == ["browser#1"]
        for holder in holders:
            await holder.leave()
        assert running.pool.status()[1].processes[0].idle_for == 0


# Cancellation at every point


@types.coroutine
def cancelling_at(step: int, work: Coroutine[Any, Any, None], scope: anyio.CancelScope) -> Generator[Any, Any, bool]:
    """Run `work`, and cancel `scope` when it waits for the `step`th time.  Return whether it got that far."""
    waits = 0
    sent: BaseException | None = None
    while True:
        try:
            waited_for = work.send(None) if sent is None else work.throw(sent)
        except StopIteration:
            return waits >= step
        waits += 1
        if waits == step:
            scope.cancel()
        sent = None
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001 - handed on to `work`
            sent = error


@pytest.mark.parametrize("config", [server("files"), exclusive("files", max_processes=1)], ids=["shared", "exclusive"])
async def test_a_lease_cancelled_at_any_point_is_given_back_exactly_once(tmp_path: Path, config: ServerConfig) -> None:
    """Also at the points of the start, of a call, and of the replacement of a dead process."""
    reached, step = True, 0
    while reached:
        step += 1
        async with bench(tmp_path, config) as running:

            async def use(running: Bench = running) -> None:
                async with running.pool.lease("files", holder="run:1") as lease:
                    await lease.call_tool("echo")
                    if config.sharing == "shared":
                        running.servers.all["files#1"].die(noticed=False)
                        await lease.call_tool("echo")

            with anyio.CancelScope() as scope:
                reached = await cancelling_at(step, use(), scope)
            await settle()
            assert running.holders("files") == ()
            assert running.pool.status()[0].waiting == ()
            await running.pool.restart("files")
            assert await call(running, "files") in running.servers.started  # and the pool still works
            assert running.servers.most_alive == {"files": 1}
    assert step > 2


async def test_a_change_of_settings_that_nobody_waits_for_ends_nothing_that_is_held(tmp_path: Path) -> None:
    config = server("files")
    async with bench(tmp_path, config) as running:
        holder = running.hold("files", "chat:1")
        await settle()
        await running.pool.reconfigure({"files": replace(config, call_timeout=1.0)})
        await settle()
        assert running.holders("files") == ("chat:1",)
        await holder.leave()


@pytest.mark.parametrize(("proven", "words"), [(True, "Its processes are gone; we try"), (False, "\n  We try again")])
async def test_that_processes_are_gone_is_said_only_when_it_is_proven(tmp_path: Path, proven: bool, words: str) -> None:
    async with bench(tmp_path, server("files")) as running:
        running.servers.failure = failure = ConnectFailed("server 'files' refused the handshake: no.")
        failure.processes_gone = "Its processes are gone" if proven else None
        with pytest.raises(ServerUnavailable, match=words):
            await call(running, "files")
