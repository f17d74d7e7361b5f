"""Jobs that call a tool which their server did not have when it last ran (pure).

The catalogue knows the tools of every server that ran once, so a slip of the
keyboard need not wait for the job's next slot to be seen.  It is a warning: a
server may have learnt since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sexton.daemon.settings_problems import Problem, did_you_mean
from sexton.scheduler import Job

KnownTools = Callable[[str], Iterable[str] | None]


def unknown_tools(jobs: Iterable[Job], known: KnownTools) -> Iterator[Problem]:
    """One problem for each such job; `known` answers None for a server that never ran."""
    for job in jobs:
        server, tool = str(job.action.get("server")), str(job.action.get("tool"))
        names = known(server) if job.action.get("kind") == "call" else None
        if names is not None and tool not in (tools := set(names)):
            near = did_you_mean(tool, tools)
            what = f"names the tool {tool!r}, which server {server!r} did not have when it last ran{near}"
            yield Problem(line=None, path=("jobs", job.name, "call"), what=what)
