"""What goes wrong on the way to a server that somebody else runs, in words for a person (pure).

Each is the end of a sentence that begins with the server's name.
"""

from __future__ import annotations

import httpx2


def trouble_of(error: BaseException) -> str | None:
    if isinstance(error, httpx2.HTTPStatusError):
        return status_trouble(error.response.status_code)
    return transport_trouble(error) if isinstance(error, httpx2.TransportError) else None


def transport_trouble(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return "cannot be reached: no connection in time"
    if isinstance(error, httpx2.TimeoutException):
        return "did not answer an HTTP request in time"
    if isinstance(error, httpx2.ConnectError):
        return _connect_trouble(str(error))
    return f"broke the connection ({str(error) or type(error).__name__})"


def _connect_trouble(text: str) -> str:
    lowered = text.lower()
    if "certificate" in lowered or "ssl" in lowered or "tls" in lowered:
        return f"cannot be trusted: the TLS connection failed ({text})"
    if "refused" in lowered or "all connection attempts failed" in lowered:
        return "cannot be reached: nothing listens at its address (connection refused)"
    return f"cannot be reached: {text}"


def status_trouble(status: int) -> str:
    match status:
        case 401 | 403:
            return f"does not accept our credentials (HTTP {status})"
        case 404:
            return "has no MCP endpoint at this url, or has ended our session (HTTP 404)"
        case 405:
            return "does not speak this kind of MCP over HTTP at this url (HTTP 405)"
        case 429:
            return "wants fewer requests (HTTP 429)"
        case _:
            return f"answered with HTTP {status}"


def hint_for(trouble: str) -> str:
    if "credentials" in trouble:
        return "set the Authorization header under [servers.….headers]"
    if "TLS" in trouble:
        return "check the certificate of the server, or use the name that it was made for"
    if "HTTP 404" in trouble or "HTTP 405" in trouble:
        return "check the path of the url (often /mcp or /sse) and the kind (streamable-http or sse)"
    return "check that the url is right and the server is up"
