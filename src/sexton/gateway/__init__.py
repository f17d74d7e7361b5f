"""Ways in: everything through which somebody outside the process reaches the gateway.

Owns the HTTP API (`sexton.gateway.http`) and the address file by which the
command line finds a running gateway.  Promises that nothing is answered
without the token, and that a caller who goes away takes only its own work with
it.  What the calls do is the business of the layers below; starting and
stopping the gateway is the daemon's.

This package itself stays light (standard library only), because the command
line imports it on every start; the server lives in `sexton.gateway.http`.
"""

from __future__ import annotations

from sexton.gateway.address import (
    ADDRESS_FILE,
    TOKEN_FILE,
    Address,
    forget_address,
    read_address,
    write_address,
    write_private,
)

__all__ = ["ADDRESS_FILE", "TOKEN_FILE", "Address", "forget_address", "read_address", "write_address", "write_private"]
