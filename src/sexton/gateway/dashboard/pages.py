"""Every page in one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sexton.errors import SextonError
from sexton.gateway.dashboard import (
    approvals,
    chat,
    deliveries,
    jobs,
    nodes,
    overview,
    processes,
    records,
    runs,
    servers,
)
from sexton.gateway.dashboard.assets import answer_asset
from sexton.gateway.dashboard.rendering import Renderer
from sexton.gateway.dashboard.viewer import Viewer, viewer_of
from sexton.gateway.http import Gateway
from sexton.gateway.http.problem import problem_of, redacted

Load: TypeAlias = Callable[[Gateway, Request, Viewer], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`load` gathers what the template shows; `section` is the entry of the navigation that it belongs to."""

    path: str
    template: str
    load: Load
    section: str


PAGES = (
    Page(path="/", template="overview.html", load=overview.load, section="overview"),
    Page(path="/processes", template="processes.html", load=processes.load, section="processes"),
    Page(path="/runs", template="runs.html", load=runs.load, section="runs"),
    Page(path="/runs/{run}", template="run.html", load=runs.load_one, section="runs"),
    Page(path="/jobs", template="jobs.html", load=jobs.load, section="jobs"),
    Page(path="/new-job", template="job_form.html", load=jobs.load_new, section="jobs"),
    Page(path="/jobs/{job}", template="job.html", load=jobs.load_one, section="jobs"),
    Page(path="/jobs/{job}/edit", template="job_form.html", load=jobs.load_edit, section="jobs"),
    Page(path="/servers", template="servers.html", load=servers.load, section="servers"),
    Page(path="/servers/{server}", template="server.html", load=servers.load_one, section="servers"),
    Page(path="/chat", template="chat.html", load=chat.load, section="chat"),
    Page(path="/chat/{conversation}", template="chat.html", load=chat.load_one, section="chat"),
    Page(path="/approvals", template="approvals.html", load=approvals.load, section="approvals"),
    Page(path="/deliveries", template="deliveries.html", load=deliveries.load, section="deliveries"),
    Page(path="/deliveries/{delivery}", template="delivery.html", load=deliveries.load_one, section="deliveries"),
    Page(path="/journal", template="journal.html", load=records.load_journal, section="journal"),
    Page(path="/nodes", template="nodes.html", load=nodes.load, section="nodes"),
    Page(path="/doctor", template="doctor.html", load=records.load_doctor, section="doctor"),
)


def create_pages(gateway: Gateway) -> Sequence[BaseRoute]:
    """The routes of the dashboard, for callers who have passed the gate; what is below `/static/` is for everybody."""
    renderer = Renderer(gateway.redactor)

    async def answer_picture(request: Request) -> Response:
        return await chat.answer_picture(gateway, request)

    pictures = "/chat/{conversation}/pictures/{number:int}/{place:int}"
    return [
        Route(pictures, answer_picture, methods=["GET"], include_in_schema=False),
        *(_route(gateway, page, renderer) for page in PAGES),
        Route("/static/{name:path}", answer_asset, methods=["GET"], include_in_schema=False),
        Route("/favicon.ico", _answer_icon, methods=["GET"], include_in_schema=False),
    ]


def _route(gateway: Gateway, page: Page, renderer: Renderer) -> Route:
    async def render(template: str, viewer: Viewer, context: Mapping[str, Any], *, status: int = 200) -> Response:
        """In a thread: a long page must not hold up the calls and chats that this event loop serves."""
        return await anyio.to_thread.run_sync(partial(renderer.render, template, viewer, context, status=status))

    async def answer(request: Request) -> Response:
        viewer = viewer_of(request, gateway.clock.now())
        shared = {
            "section": page.section,
            "node": gateway.node,
            "several": gateway.archive is not None,
            "path": request.url.path,
        }
        try:
            context = await page.load(gateway, request, viewer)
        except SextonError as error:
            problem = redacted(problem_of(error), gateway.redactor)
            return await render("problem.html", viewer, shared | {"problem": problem}, status=problem.status)
        return await render(page.template, viewer, {**shared, **context})

    return Route(page.path, answer, methods=["GET"], include_in_schema=False)


async def _answer_icon(request: Request) -> Response:
    request.path_params["name"] = "icon.svg"
    try:
        return await answer_asset(request)
    except HTTPException:
        return Response(status_code=404)
