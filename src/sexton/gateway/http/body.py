"""The body of a request: JSON, and of the shape that the route asks for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from sexton.gateway.http.problem import Problem, bad_request

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

_Body = TypeVar("_Body", bound="RequestBody")


class RequestBody(BaseModel):
    """A request's JSON object.  A key that it does not know is an error, for a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


async def read_body(request: Request, shape: type[_Body]) -> _Body:
    """Read and check the whole body; an empty one counts as `{}`.

    Raises `Problem`: 415 if it is declared to be something else, 400 if it is not JSON or not of that shape (all faults
    at once, each with a JSON pointer).  The gate sees to its size and its time (413, 408).
    """
    _expect_json(request)
    document = _parse(await request.body())
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        raise _shape_problem(error, shape) from error


def _expect_json(request: Request) -> None:
    declared = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise Problem(
            status=415,
            kind="unsupported-media-type",
            what=f"The body is declared as {declared!r}; send application/json.",
        )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}", parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise bad_request(f"The body is not JSON: {error.msg} ({place}).") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise bad_request(f"The body is not JSON that can be read: {error}.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _shape_problem(error: ValidationError, shape: type[BaseModel]) -> Problem:
    faults = [{"pointer": _pointer(fault["loc"]), "detail": _fault(fault, shape)} for fault in error.errors()]
    text = "; ".join(f"{fault['pointer'] or 'the body'}: {fault['detail']}" for fault in faults)
    return bad_request(f"The request is not right: {text}.", more={"errors": faults})


def _fault(fault: Any, shape: type[BaseModel]) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key" + _suggestion(str(fault["loc"][-1]), shape.model_fields)
    return str(fault["msg"]).removeprefix("Value error, ").rstrip(".")


def _suggestion(key: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _pointer(location: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def refuse_nul(request: Request) -> None:
    """Raise `Problem` 400 for a NUL in path or query: no name has one, and databases read no further than that."""
    if "\0" in request.scope["path"] or any("\0" in name + value for name, value in request.query_params.multi_items()):
        raise bad_request("The path or the query has a NUL character in it.")


def read_count(request: Request, name: str, *, default: int, most: int, least: int = 1) -> int:
    """A whole number from `least` to `most` in the query."""
    said = request.query_params.get(name, str(default))
    if not (said.isascii() and said.isdecimal() and len(said) <= 10 and least <= int(said) <= most):
        raise bad_request(f"The query parameter {name} must be a whole number from {least} to {most}, not {said!r}.")
    return int(said)


def read_time(request: Request, name: str) -> datetime | None:
    """A time in the query (ISO 8601 with an offset); None if it is not there."""
    said = request.query_params.get(name)
    if not said:
        return None
    try:
        time = datetime.fromisoformat(said.replace(" ", "+"))  # a plus that was not escaped arrives as a space
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or not _EARLIEST <= time <= _LATEST:
        raise bad_request(
            f"The query parameter {name} must be a time with an offset, not {said!r}.",
            hint="write it like 2026-12-01T07:00:00+01:00",
        )
    return time
