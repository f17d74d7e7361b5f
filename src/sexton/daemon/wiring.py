"""Builds each part from the settings, hands it to the next, and takes all down in the reverse order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

import sexton
from sexton.actions import perform_action
from sexton.agent import (
    Agent,
    Approvals,
    Attachment,
    Chats,
    Completions,
    DatabaseApprovals,
    MemoryStore,
    ModelRelay,
    NotAllowed,
    SextonTools,
    UserMessage,
)
from sexton.clock import Clock
from sexton.containment import Boundary, Containment, TreeStatus, examine, list_orphans
from sexton.daemon.node import engine_for, last_resort, lease_for, place_of, uptime
from sexton.daemon.references import ReferenceFails
from sexton.daemon.settings import Settings, resolve_action
from sexton.database import Database
from sexton.errors import SextonError
from sexton.gateway.channels import ChannelClaims, Channels, Inbox, Said
from sexton.gateway.dashboard import create_pages
from sexton.gateway.deliveries import Deliveries, Outbox, TargetConfig, make_target, queue_run
from sexton.gateway.http import Gateway, Logins, Metrics, Scope, Tokens, WayIn, reserved_port, serve_http, tree_summary
from sexton.gateway.journal_archive import JournalArchive
from sexton.gateway.mcp_endpoint import Endpoint
from sexton.gateway.memory_samples import keep_sampling
from sexton.gateway.openai_api import MAX_QUESTION, create_openai_api, envelope
from sexton.journal import JSON, Journal
from sexton.local_models import LocalModels
from sexton.mcp_servers import ServerPool
from sexton.redaction import Redactor
from sexton.scheduler import (
    Limits,
    Offer,
    Origin,
    Outcome,
    Perform,
    RunContext,
    RunFailed,
    RunStore,
    Scheduler,
    new_node_id,
)

_STRENGTH = (Boundary.PROCESS_GROUP, Boundary.SUBREAPER, Boundary.CGROUP)
Run = Callable[..., Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The running parts that a reload and a stop need, and where the gateway serves."""

    containment: Containment
    pool: ServerPool
    scheduler: Scheduler
    cut_off: Callable[[], object]
    """Ends the calls of clients at once, told as what it is: the gateway stops."""
    deliveries: Deliveries
    endpoint: Endpoint
    agent: Agent
    chats: Chats
    channels: Channels
    archive: JournalArchive | None
    url: str
    logins: Logins


@asynccontextmanager
async def running_parts(
    settings: Settings,
    *,
    data_dir: Path,
    journal: Journal,
    clock: Clock,
    started_at: datetime,
    last: AsyncExitStack,
    redactor: Redactor | None = None,
    told_before: int | None = None,
) -> AsyncIterator[Parts]:
    """All parts, started in order and serving.

    The database is left to `last`, so that the end itself can be written down there; `told_before` is the id of the
    journal's last event of an earlier life.

    Leaving stops them in the reverse order: first nobody can ask for anything
    new, then runs end, then servers, and at the very end whatever is left of
    anything is swept and proven gone.
    """
    node, redactor = settings.node.name, redactor or Redactor(settings.secrets)
    capacity = settings.node.capacity or settings.concurrency
    lease = lease_for(settings.database)
    is_shared = lease.fence_after is not None
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(partial(metrics.follow, journal)))
        containment = await stack.enter_async_context(Containment.open(data_dir))
        tell_recovery(containment, journal)
        stack.push_async_callback(_sweep_everything, containment)
        _require(settings, containment)
        listening = settings.http.listening
        # Before any server is started, which may take a minute: a port that is taken is the likeliest mistake.
        listener = stack.enter_context(closing(reserved_port(listening.host, listening.port)))
        database = await last.enter_async_context(Database.open(settings.database or data_dir / "sexton.db"))
        pool = ServerPool(
            settings.servers,
            containment,
            clock=clock,
            journal=journal,
            data_dir=data_dir,
            on_call=metrics.observe_call,
        )
        await stack.enter_async_context(running(pool.run))
        node_id = new_node_id(node)
        deliveries = Deliveries(
            Outbox(database, is_shared=is_shared),
            clock=clock,
            journal=journal,
            owner=node_id if is_shared else _owner(node, data_dir),
            may_send=lambda: not (is_shared and scheduler.is_cut_off),
        )
        stack.push_async_callback(deliveries.aclose)
        await change_targets(deliveries, {}, settings.targets, clock=clock)
        if not is_shared:
            await stack.enter_async_context(running(deliveries.run))
        local_models = LocalModels(containment, data_dir=data_dir, clock=clock, journal=journal)
        await stack.enter_async_context(running(local_models.run))
        agent = agent_of(settings, pool, local_models, database, journal=journal, clock=clock)

        def at_fence() -> None:
            channels.cut_off()
            deliveries.cut_off()

        def cut_off() -> None:
            chats.cut_off()
            containment.kill_all()

        offer = Offer(name=node, labels=settings.node.labels, servers=pool.servers if is_shared else None)
        engine = engine_for(settings.database, capacity=capacity, offer=offer, clock=clock)
        if engine is not None:
            await database.write(engine.prepare)
        scheduler = Scheduler(
            RunStore(database, at_end=queue_run, engine=engine),
            perform_of(settings, pool, containment, agent, lambda: own_tools, redactor),
            clock=clock,
            journal=journal,
            limits=Limits(overall=capacity, per_resource=settings.resources),
            after_tick=lambda: sweep_orphans(containment, journal),
            node=node,
            offer=offer,
            place=place_of(data_dir) if is_shared else None,
            lease=lease,
            uptime=uptime,
            on_fence=at_fence,
            on_cut_off=cut_off,
            keep_until=containment.keep_until if is_shared else None,
            node_id=node_id,
            describe=lambda: {
                **describe_node(settings, pool, containment.trees if is_shared else tuple),
                "channels": channels.told(),
            },
            redactor=redactor,
        )
        if is_shared:
            stack.enter_context(last_resort(scheduler.hold))
        await scheduler.replace_config_jobs(settings.jobs)
        own_tools = SextonTools(
            scheduler, MemoryStore(database), pool, deliveries, clock=clock, config=lambda: agent.config
        )
        chats = Chats(
            database,
            agent,
            clock=clock,
            journal=journal,
            own_tools=own_tools,
            owner=scheduler.node_id if is_shared else None,
            may_take_over=lambda: scheduler.is_open,
        )
        claims = ChannelClaims(database, node=node_id, name=node) if is_shared else None
        channels = await _channels(
            settings,
            Inbox(database, node=node_id if is_shared else None),
            chats,
            deliveries,
            clock=clock,
            journal=journal,
            claims=claims,
            is_open=lambda: not (scheduler.is_drained or scheduler.is_cut_off),
        )
        await stack.enter_async_context(running(chats.run))
        await chats.resume()
        await stack.enter_async_context(running(scheduler.run))
        if is_shared:
            stack.callback(chats.leave)  # before the scheduler says that we are gone, and others take turns over
            await stack.enter_async_context(running(deliveries.run))
            stack.push_async_callback(deliveries.leave)
        logins = Logins(clock)
        tokens = Tokens(database, clock=clock, logins=logins)
        archive = None
        if is_shared:
            archive = JournalArchive(database, journal, node=node, clock=clock, after=told_before)
            await stack.enter_async_context(running(archive.run))
        gateway = Gateway(
            archive=archive,
            pool=pool,
            scheduler=scheduler,
            deliveries=deliveries,
            chats=chats,
            channels=channels,
            containment=containment,
            journal=journal,
            clock=clock,
            started_at=started_at,
            node=node,
            data_dir=data_dir,
            config_path=settings.path,
            examine=lambda: examine(data_dir),
            orphans=lambda: list_orphans(data_dir),
            logins=logins,
            keyring=tokens,
            tokens=tokens,
            redactor=redactor,
            metrics=metrics,
            limits=settings.http.limits,
            profiles=lambda: endpoint.profiles,
            model_holders=local_models.holders,
        )
        endpoint = Endpoint(
            pool,
            settings.endpoint,
            clock=clock,
            journal=journal,
            closing=gateway.closing,
            cutting_off=gateway.cutting_off,
        )
        await stack.enter_async_context(running(endpoint.run))
        relay = ModelRelay(local_models)
        stack.push_async_callback(relay.aclose)
        openai_api = create_openai_api(gateway, Completions(agent, clock=clock, journal=journal), relay)
        ways = [
            WayIn(path="/mcp", app=endpoint, scope=Scope.RUN, for_profiles=True, max_body=settings.endpoint.max_body),
            WayIn(path="/v1", app=openai_api, scope=Scope.RUN, max_body=MAX_QUESTION, refuse=envelope),
        ]
        sampling = partial(keep_sampling, gateway.memory, containment.trees, journal=journal, clock=clock)
        await stack.enter_async_context(running(sampling))
        url = await stack.enter_async_context(
            serve_http(
                gateway,
                data_dir=data_dir,
                listening=listening,
                listener=listener,
                ways=ways,
                pages=create_pages(gateway),
            )
        )
        chats.begin()  # not before all serves: a start that fails has begun no turn
        await stack.enter_async_context(running(channels.run))
        yield Parts(
            containment=containment,
            pool=pool,
            scheduler=scheduler,
            cut_off=gateway.cutting_off.set,
            deliveries=deliveries,
            endpoint=endpoint,
            agent=agent,
            chats=chats,
            channels=channels,
            archive=archive,
            url=url,
            logins=logins,
        )


def describe_node(settings: Settings, pool: ServerPool, trees: Callable[[], Sequence[TreeStatus]]) -> dict[str, JSON]:
    """What the other nodes are told of this one with each beat."""
    return {
        "labels": list[JSON](sorted(settings.node.labels)),
        "servers": list[JSON](sorted(pool.servers())),
        "capacity": settings.node.capacity or settings.concurrency,
        "version": sexton.__version__,
        "trees": [dict[str, JSON](**tree_summary(tree)) for tree in trees_now(trees)],
    }


def trees_now(trees: Callable[[], Sequence[TreeStatus]]) -> Sequence[TreeStatus]:
    """For what may be told without them, where no descriptor is left to read the ledger."""
    try:
        return trees()
    except OSError:
        return ()


def agent_of(
    settings: Settings,
    pool: ServerPool,
    local_models: LocalModels,
    database: Database,
    *,
    journal: Journal,
    clock: Clock,
) -> Agent:
    """What runs turns, for jobs and chats."""

    def timeout() -> float:
        return agent.config.approval_timeout

    approvals = Approvals(DatabaseApprovals(database), clock=clock, journal=journal, timeout=timeout)
    agent = Agent(
        pool,
        config=settings.agent,
        approvals=approvals,
        database=database,
        clock=clock,
        local_models=local_models,
        loads_at_once=False,
    )
    return agent


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[None]:
    """`run` in a task that has started when the block begins, and has ended when it is left."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(run)
        yield
        tasks.cancel_scope.cancel()


def perform_of(
    settings: Settings,
    pool: ServerPool,
    containment: Containment,
    agent: Agent,
    own_tools: Callable[[], SextonTools],
    redactor: Redactor,
) -> Perform:
    """What a run does, with the references of a configured job put in only now, so that no secret is stored.

    Jobs that came over the API get none: whoever may add a job must not
    thereby read our environment.  `own_tools` is asked when a run begins.
    """
    folder = settings.path.resolve().parent

    def learn(secret: str) -> None:
        redactor.learn([secret])

    async def perform(context: RunContext) -> Outcome:
        if context.job.origin is Origin.CONFIG:
            try:
                action = resolve_action(context.job.action, environment=os.environ, folder=folder, learn=learn)
            except ReferenceFails as fails:
                raise RunFailed(f"The action of job '{context.job.name}' {fails}.") from fails
        else:
            action = dict(await _bounded(context))
        return await perform_action(
            action, context, pool=pool, containment=containment, agent=agent, own_tools=own_tools().of_job
        )

    async def _bounded(context: RunContext) -> Mapping[str, JSON]:
        try:
            return await own_tools().bounded(context.job)
        except NotAllowed as refusal:
            raise RunFailed(refusal.what, hint=refusal.hint) from refusal

    return perform


async def _channels(
    settings: Settings,
    inbox: Inbox,
    chats: Chats,
    deliveries: Deliveries,
    *,
    clock: Clock,
    journal: Journal,
    claims: ChannelClaims | None,
    is_open: Callable[[], bool],
) -> Channels:
    def say_as(said: Said) -> UserMessage:
        pictures = tuple(Attachment(one.media_type, one.data, one.name) for one in said.pictures)
        files = tuple((one.name, one.text) for one in said.files)
        return UserMessage(said.text, pictures, said.author, files)

    channels = Channels(
        inbox, chats, deliveries, say_as=say_as, clock=clock, journal=journal, claims=claims, is_open=is_open
    )
    await channels.configure(settings.channels)
    return channels


def _owner(node: str, data_dir: Path) -> str:
    """This gateway and no other one, before and after a restart: only one at a time has the data folder."""
    return f"{node}:{data_dir.resolve()}"


async def change_targets(
    deliveries: Deliveries,
    before: Mapping[str, TargetConfig],
    after: Mapping[str, TargetConfig],
    *,
    clock: Clock,
) -> None:
    """Let go of the targets that changed or went, make those that are new.  Raises UsageError if one cannot be made."""
    made = {name: make_target(config, clock=clock) for name, config in after.items() if before.get(name) != config}
    for name in [name for name, config in before.items() if after.get(name) != config]:
        if (gone := deliveries.remove_target(name)) is not None:
            await gone.aclose()
    for name, target in made.items():
        deliveries.add_target(name, target)


def tell_recovery(containment: Containment, journal: Journal) -> None:
    """What the start found of an earlier gateway that was killed, and finished."""
    recovered = containment.recovered
    if recovered.trees:
        trees = [f"{tree.name} ({tree.state})" for tree in recovered.trees]
        journal.append("containment.recovered", subject="containment", trees=list[JSON](trees))


async def sweep_orphans(containment: Containment, journal: Journal) -> None:
    """After each tick's runs have ended: what nobody owns any more."""
    try:
        report = await containment.sweep()
    except OSError as problem:  # no descriptor is left, or the disk is not there; the next tick tries again
        what = f"Processes that nobody owns could not be looked for: {problem.strerror or problem}."
        journal.append("containment.not_swept", subject="containment", what=what)
        return
    trees = report.recovery.trees
    if trees or report.stuck:
        journal.append(
            "containment.swept",
            subject="containment",
            count=len(trees),
            what=f"The sweep found {len(trees)} process trees without an owner: "
            + ", ".join(f"{tree.name} ({tree.state})" for tree in trees),
        )


async def _sweep_everything(containment: Containment) -> None:
    """Every session has ended: whatever is still there goes."""
    with anyio.CancelScope(shield=True):
        await containment.sweep(include_active=True)


def _require(settings: Settings, containment: Containment) -> None:
    if settings.require_containment is None:
        return
    required, found = Boundary(settings.require_containment), containment.boundary
    if _STRENGTH.index(found) < _STRENGTH.index(required):
        raise SextonError(
            f'{settings.path.name} asks for require_containment = "{required}", and this machine gives "{found}".',
            hint="see why, and what would help: sexton doctor",
        )
