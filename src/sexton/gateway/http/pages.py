"""The few pages that are there without the dashboard: what a browser meets that is not logged in.

Their style is the dashboard's, which is for everybody; without it they are plain.
"""

from __future__ import annotations

import html

from starlette.responses import HTMLResponse, Response

from sexton.gateway.http.problem import Problem

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/static/sexton.css">
{head}<title>Sexton</title>
</head>
<body class="door">
<main class="panel">
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def login_needed(problem: Problem) -> Response:
    """In place of a page, for a browser that is not logged in."""
    body = "<p>On the machine where the gateway runs, type <code>sexton open</code>: it prints a link that logs in.</p>"
    return _page("Not logged in", body, status=problem.status)


def link_spent() -> Response:
    body = "<p>A link to log in works once, for 15 minutes. For a new one type <code>sexton open</code>.</p>"
    return _page("This link is spent", body, status=401)


def logged_in(target: str) -> Response:
    """Lead on to `target` by the page itself.

    After a redirect, a browser that followed the link from another site would not send the cookie, which is
    SameSite=Strict; this page is ours, so what it leads to is asked for by ourselves.
    """
    place = html.escape(target, quote=True)
    head = f'<meta http-equiv="refresh" content="0; url={place}">\n'
    return _page("Logged in", f'<p><a href="{place}">Go on</a></p>', head=head)


def _page(title: str, body: str, *, head: str = "", status: int = 200) -> Response:
    text = _PAGE.format(title=html.escape(title), body=body, head=head)
    return HTMLResponse(text, status, {"cache-control": "no-store"})
