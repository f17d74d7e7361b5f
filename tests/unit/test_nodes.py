"""Where runs may work, and which nodes take any."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from fake_clock import settle
from scheduling import Work, every, running
from sexton import database as tables
from sexton.scheduler import (
    Job,
    Need,
    NodeEnd,
    NodeNotGone,
    Offer,
    Origin,
    RunState,
    RunStore,
    UnknownNode,
    from_document,
    to_document,
)
from sexton.scheduler.gateways import this_gateway
from sexton.scheduler.job_document import read_document
from sexton.scheduler.needs import need_of

NAMES = st.text(min_size=1, max_size=300)
SETS = st.frozensets(NAMES, max_size=4)
NEEDS = st.builds(Need, node=st.none() | NAMES, labels=SETS, servers=SETS)


@given(NEEDS, NEEDS)
def test_equal_needs_wait_in_one_queue_and_others_do_not(one: Need, other: Need) -> None:
    assert (one.queue == other.queue) is (one == other)
    assert len(one.queue.encode()) <= 21  # with procrastinate_queue_v1# before it within the 63 bytes of a channel
    assert Need.of_document(one.document) == one


def test_a_node_serves_what_it_covers() -> None:
    offer = Offer(name="a", labels=frozenset({"browser", "gpu"}), servers=lambda: ["time", "notes"])
    assert offer.covers(Need())
    assert offer.covers(Need(node="a", labels=frozenset({"gpu"}), servers=frozenset({"notes"})))
    assert not offer.covers(Need(node="b"))
    assert not offer.covers(Need(labels=frozenset({"gpu", "big"})))
    assert not offer.covers(Need(servers=frozenset({"mail"})))
    assert Offer(name="a").covers(Need(servers=frozenset({"mail"})))


def test_what_a_job_needs() -> None:
    job = Job(name="job", node="a", labels=("gpu",), resources=("server:notes", "license"))
    assert need_of(job) == Need(node="a", labels=frozenset({"gpu"}), servers=frozenset({"notes"}))
    assert from_document(to_document(job)) == job
    assert need_of(job).text == "node=a labels=gpu servers=notes"


def test_a_node_reads_what_a_later_version_wrote() -> None:
    job = every(5)
    assert read_document({**to_document(job), "colour": "red"}) == job


@pytest.mark.anyio
async def test_a_run_waits_for_a_node_that_has_its_labels(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(10, name="plain"), every(10, name="on-gpu", labels=("gpu",)))) as bench:
        await bench.clock.advance(10)
        assert await bench.states("plain") == [RunState.RAN]
        assert await bench.states("on-gpu") == [RunState.QUEUED]


@pytest.mark.anyio
async def test_a_drained_node_starts_nothing_and_ends_what_it_has(tmp_path: Path) -> None:
    work = Work(hold=True)
    async with running(tmp_path, jobs=(every(10, catch_up_window=3600),), work=work) as bench:
        await bench.clock.advance(10)
        await bench.scheduler.set_drained("here", drained=True, by="a test")
        await settle()
        await work.let_end(0)
        await bench.clock.advance(30)
        assert await bench.states() == [RunState.RAN]
        assert [(node.name, node.drained, node.running) for node in await bench.scheduler.nodes()] == [
            ("here", True, 0)
        ]
        await bench.scheduler.set_drained("here", drained=False, by="a test")
        await bench.clock.advance(0)
        assert await bench.states() == [RunState.RAN, RunState.MISSED, RunState.RUNNING]
        assert [event.kind for event in bench.events("node.drained", "node.undrained")] == [
            "node.drained",
            "node.undrained",
        ]


@pytest.mark.anyio
async def test_only_known_nodes_are_drained_and_a_drain_outlives_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        with pytest.raises(UnknownNode, match="The nodes are: here"):
            await bench.scheduler.set_drained("there", drained=True, by="a test")
        await bench.scheduler.set_drained("here", drained=True, by="a test")
        store = RunStore(bench.database)
        await store.unregister(bench.scheduler.node_id, now=bench.clock.now())
        assert [(node.id, node.drained) for node in await store.nodes()] == [(None, True)]


@pytest.mark.anyio
@pytest.mark.usefixtures("each_database")
async def test_how_a_node_ended_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    work = Work(hold=True)
    async with running(tmp_path, jobs=(every(10, on_interrupted="rerun"), every(10, name="other")), work=work) as bench:
        store, died, stopped = RunStore(bench.database), this_gateway("died"), this_gateway("stopped")
        for gateway in (died, stopped):
            await store.register(gateway, now=bench.clock.now())
        await bench.clock.advance(10)
        await bench.database.write(
            lambda connection: connection.execute(
                update(tables.run).values(owner=died.id).where(tables.run.c.state == "running")
            )
        )
        with pytest.raises(NodeNotGone, match="Node 'died' lives"):
            await bench.scheduler.forget_node("died", by="a test")
        assert await store.settle_dead(died, now=bench.clock.now(), by="here") is not None
        await store.unregister(stopped.id, now=bench.clock.now())
        ended = {node.name: node.ended for node in await store.nodes()}
        assert ended["here"] is None
        assert ended["died"] == NodeEnd(how="died", at=bench.clock.now(), by="here", settled=2, rerun=1)
        assert ended["stopped"] == NodeEnd(how="stopped", at=bench.clock.now())

        await bench.scheduler.set_drained("stopped", drained=True, by="a test")
        await bench.scheduler.forget_node("stopped", by="a test")
        await bench.scheduler.forget_node("died", by="a test")
        assert [(node.name, node.drained) for node in await store.nodes()] == [("here", False)]
        assert [event.subject for event in bench.events("node.forgotten")] == ["stopped", "died"]
        with pytest.raises(UnknownNode):
            await bench.scheduler.forget_node("died", by="a test")


@pytest.mark.anyio
async def test_a_node_that_is_gone_is_remembered_for_a_month_and_longer_if_it_is_drained(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        store, now = RunStore(bench.database), bench.clock.now()
        for name, day in (("old", 0), ("drained", 0), ("late", 31)):
            gateway = this_gateway(name)
            await store.register(gateway, now=now)
            await store.set_drained(name, drained=name == "drained", by="a test", now=now)
            await store.unregister(gateway.id, now=now + timedelta(days=day))
        assert [node.name for node in await store.nodes()] == ["drained", "here", "late"]


@pytest.mark.anyio
async def test_the_jobs_that_only_the_file_of_a_forgotten_node_named_go_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        store, now, gone = RunStore(bench.database), bench.clock.now(), this_gateway("gone")
        shared, own, by_hand = (
            every(60, name="shared"),
            every(60, name="own"),
            every(60, name="by-hand", origin=Origin.RUNTIME),
        )
        await bench.scheduler.put_job(by_hand)
        await store.replace_config_jobs([shared, own], now=now, source="gone")
        await store.replace_config_jobs([shared], now=now, source="here")
        await store.register(gone, now=now)
        await store.unregister(gone.id, now=now)
        assert (await bench.scheduler.forget_node("gone", by="a test")).removed == ("own",)
        assert {status.job.name for status in await store.statuses()} == {"by-hand", "shared"}


@pytest.mark.anyio
async def test_a_run_that_we_were_not_told_to_have_claimed_is_ended(tmp_path: Path) -> None:
    """The commit of its claim was answered by a lost connection: the row says that we run it, and we do not."""
    async with running(tmp_path, jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        [run] = await bench.rows()
        await bench.database.write(
            lambda connection: connection.exec_driver_sql("UPDATE run SET state = 'running', ended_at = NULL")
        )
        await bench.clock.advance(5)
        assert [row.state for row in await bench.rows() if row.id == run.id] == [RunState.RUNNING]
        await bench.clock.advance(5)
        assert [row.state for row in await bench.rows() if row.id == run.id] == [RunState.INTERRUPTED]


@pytest.mark.anyio
async def test_a_gateway_that_has_beaten_since_is_not_settled(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        store, other = RunStore(bench.database), this_gateway("other")
        await store.register(other, now=bench.clock.now())
        [seen] = [gateway for gateway in await store.gateways() if gateway.id == other.id]
        await bench.database.write(
            lambda connection: connection.exec_driver_sql("UPDATE node SET beat = beat + 1 WHERE name = 'other'")
        )
        assert await store.settle_dead(seen, now=bench.clock.now()) is None
        assert other.id in {gateway.id for gateway in await store.gateways()}


@pytest.mark.anyio
async def test_jobs_of_the_files_of_several_nodes(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        store, now = RunStore(bench.database), bench.clock.now()
        shared, own = every(60, name="shared"), every(60, name="own")
        await store.replace_config_jobs([shared, own], now=now, source="a")
        changes = await store.replace_config_jobs([shared], now=now, source="b")
        assert (changes.added, changes.changed, changes.removed) == ((), (), ())
        assert (await store.replace_config_jobs([shared], now=now, source="a")).removed == ("own",)
        assert (await store.replace_config_jobs([], now=now, source="a")).removed == ()
        assert (await store.replace_config_jobs([], now=now, source="b")).removed == ("shared",)
