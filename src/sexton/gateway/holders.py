"""Who holds a server, in words: a run by its job, anybody else as the gateway has it (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sexton.gateway.documents import JobDocument

_RUN = "run:"
_REMEMBERED = 1000


class RunEvent(Protocol):
    """An entry of the journal that may be about a run."""

    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


class RunNames:
    """The jobs of the runs that were seen lately."""

    def __init__(self, jobs: Iterable[JobDocument] = ()) -> None:
        self._jobs = {run["id"]: job["name"] for job in jobs for run in job["active_runs"]}

    def learn(self, event: RunEvent) -> None:
        """Take note of a run that starts."""
        if event.kind == "run.started":
            self._jobs[str(event.data.get("run"))] = event.subject
            if len(self._jobs) > _REMEMBERED:
                del self._jobs[next(iter(self._jobs))]

    def name(self, holder: str) -> str:
        """`run:<id>` by its job; a run that nobody has heard of by the end of its id."""
        run = holder.removeprefix(_RUN)
        return holder if run == holder else self._jobs.get(run, f"run {run[-8:]}")

    def names(self, holders: Sequence[str]) -> list[str]:
        """Each name once, in order."""
        return list(dict.fromkeys(self.name(holder) for holder in holders))

    def name_holders(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """An event's data with names in place of its holders."""
        named = {key: [self.name(str(one)) for one in data[key]] for key in ("holders", "waiting") if data.get(key)}
        return {**data, **named}
