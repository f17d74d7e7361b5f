"""`sexton open`: the dashboard in a browser that is logged in."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated

import typer

from sexton.cli.connection import connect
from sexton.cli.options import ConfigOption, DataOption, JsonOption, places_of, wants_json
from sexton.cli.output import print_json, say
from sexton.gateway import write_private
from sexton.gateway.documents import LoginLinkDocument

_PAGE = "open.html"


def add_to(app: typer.Typer) -> None:
    app.command("open")(open_browser)


def open_browser(
    context: typer.Context,
    only_print: Annotated[bool, typer.Option("--print", "-p", help="Print the link and open nothing.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open the dashboard in the browser, logged in.

    By a link that works once, for 15 minutes.
    """
    gateway = connect(context, config, data)
    link: LoginLinkDocument = gateway.post("login-links")
    url = gateway.address.url + link["path"]
    if wants_json(context, as_json):
        print_json({"url": url, "seconds": link["seconds"]})
    elif only_print or typer.launch(_leading_page(places_of(context, config, data).data_dir(), url)) != 0:
        say(url)
    else:
        say(f"Opened {gateway.address.url} in the browser.  If none appears: sexton open --print")


def _leading_page(data_dir: Path, url: str) -> str:
    """A page that only its user can read: the arguments of the program that opens a browser, all users can see."""
    page = data_dir / _PAGE
    write_private(
        page, f'<!doctype html>\n<meta http-equiv="refresh" content="0; url={html.escape(url, quote=True)}">\n'
    )
    return page.resolve().as_uri()
