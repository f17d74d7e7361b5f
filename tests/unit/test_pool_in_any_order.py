"""The whole pool under any order of events: what must always hold, and that nobody waits for ever."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from fake_clock import settle
from fake_servers import Bench, FakeServers, Holder, bench, exclusive, server
from sexton.errors import SextonError
from sexton.mcp_servers import ServerConfig, ServerState

pytestmark = pytest.mark.anyio

MAX_BROWSERS = 2
CONFIGS = [
    server("files", idle_timeout=30, max_age=200),
    server("warm", keep_warm=True, max_calls=5),
    exclusive("browser", max_processes=MAX_BROWSERS, idle_timeout=50, connect_timeout=100),
]


class Storm:
    """Does one random thing after another."""

    def __init__(self, running: Bench, seed: int) -> None:
        self.running = running
        self.chance = random.Random(seed)
        self.holders: list[Holder] = []
        self.deeds = {
            self.come: 6,
            self.leave: 4,
            self.cancel: 3,
            self.die: 2,
            self.die_unnoticed: 1,
            self.hold_up: 2,
            self.let_go: 3,
            self.break_or_mend: 1,
            self.restart: 1,
            self.change_settings: 1,
            self.wait: 5,
        }

    async def blow(self, steps: int) -> None:
        for _ in range(steps):
            [deed] = self.chance.choices(list(self.deeds), weights=list(self.deeds.values()))
            await deed()
            if self.chance.random() < 0.7:
                await settle()
            self.check()

    def check(self) -> None:
        most = self.running.servers.most_alive
        assert all(most.get(name, 0) <= 1 for name in ("files", "warm"))
        assert most.get("browser", 0) <= MAX_BROWSERS
        for name, made in self.running.servers.all.items():
            assert not name.startswith("browser") or len(set(made.visitors)) <= 1, "a used browser was handed on"
        for status in self.running.pool.status():
            if not status.waiting and status.name != "warm":
                assert all(process.state != "starting" for process in status.processes), "nobody waits for this start"
            for process in status.processes:
                assert (process.idle_for is None) or not process.holders
                assert status.name != "browser" or len(set(process.holders)) <= 1

    async def come(self) -> None:
        name = self.chance.choice([config.name for config in CONFIGS])
        returns = self.chance.random() < 0.5
        self.holders.append(self.running.hold(name, self.chance.choice("abcd"), returns=returns))

    async def leave(self) -> None:
        if self.holders:
            self.chance.choice(self.holders).told_to_leave.set()

    async def cancel(self) -> None:
        if self.holders:
            self.chance.choice(self.holders).scope.cancel()

    async def die(self) -> None:
        if self.running.servers.alive:
            name = self.chance.choice(self.running.servers.alive)
            self.running.servers.all[name].die(returncode=self.chance.choice([0, 1]))

    async def die_unnoticed(self) -> None:
        if self.running.servers.alive:
            self.running.servers.all[self.chance.choice(self.running.servers.alive)].die(noticed=False)

    async def hold_up(self) -> None:
        servers = self.running.servers
        self.chance.choice([servers.starting, servers.stopping, servers.connecting]).close()

    async def let_go(self) -> None:
        servers = self.running.servers
        for gate in (servers.starting, servers.stopping, servers.connecting):
            gate.open()

    async def break_or_mend(self) -> None:
        servers = self.running.servers
        servers.failure = SextonError("it does not start.") if servers.failure is None else None

    async def restart(self) -> None:
        name = self.chance.choice([config.name for config in CONFIGS])
        self.running.tasks.start_soon(self.running.pool.restart, name)

    async def change_settings(self) -> None:
        new = [self._changed(config) for config in CONFIGS]
        await self.running.pool.reconfigure({config.name: config for config in new})

    def _changed(self, config: ServerConfig) -> ServerConfig:
        return replace(config, write_timeout=self.chance.choice([30.0, 31.0]))

    async def wait(self) -> None:
        await self.running.clock.advance(self.chance.choice([0.1, 1, 10, 40, 100]))


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_every_lease_ends_and_the_pool_works_again(tmp_path: Path, seed: int) -> None:
    async with bench(tmp_path, *CONFIGS, servers=FakeServers()) as running:
        storm = Storm(running, seed)
        await storm.blow(120)

        await storm.let_go()
        running.servers.failure = None
        for holder in storm.holders:
            holder.told_to_leave.set()
        await running.clock.advance(400)  # every wait in the pool is shorter

        assert all(holder.left.is_set() for holder in storm.holders)
        for status in running.pool.status():
            assert (status.holders, status.waiting) == ((), ())
        for name in ("files", "warm", "browser"):
            holder = running.hold(name, "afterwards")
            await settle()
            assert holder.got in running.servers.alive, holder.error
            await holder.leave()
        await running.clock.advance(400)
        states = {status.name: status.state for status in running.pool.status()}
        assert states == {"files": ServerState.STOPPED, "browser": ServerState.STOPPED, "warm": ServerState.RUNNING}
