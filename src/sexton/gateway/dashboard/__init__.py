"""The dashboard: pages at `/` for a person who looks after the gateway.

Owns the pages, their templates, scripts and styles, all of which are in the package: nothing is fetched from elsewhere
and nothing has to be built.  A page shows the same documents as the API; whatever it changes, it asks the API for, as
any other client does.  Everything that a server, a tool or a run said is text here, never HTML.

Who may come in, and the headers of every answer, are the business of `sexton.gateway.http`.
"""

from __future__ import annotations

from sexton.gateway.dashboard.pages import create_pages

__all__ = ["create_pages"]
