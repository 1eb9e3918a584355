"""The planner as a process: where it listens, whom it lets in, how it ends; what it serves it does not know."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from ..errors import InputError
from ..lawset import LawSet
from .app import Settings, create_app

__all__ = ["LEAST_TOKEN", "serve"]

LEAST_TOKEN = 16


def serve(
    host: str,
    port: int,
    settings: Settings,
    own_law: LawSet | None,
    announce: Callable[[str], None],
    *,
    allow_remote: bool = False,
) -> None:
    """Listen until interrupted; `announce` gets the address once connections are taken."""
    local = _is_loopback(host)
    if not local and not (allow_remote and settings.token):
        raise InputError(
            f"--host {host!r} is reachable by others, and whoever reaches it may use this machine; "
            "give --allow-remote and a --token to want that, or leave --host out"
        )
    if settings.token is not None and len(settings.token) < LEAST_TOKEN:
        raise InputError(
            f"--token must have at least {LEAST_TOKEN} characters; got {len(settings.token)}; "
            'take one from: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    with _listening(host, port) as place:
        app = create_app(settings, own_law)
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{place.getsockname()[1]}/")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            limit_concurrency=500,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
        )
        with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
            uvicorn.Server(config).run(sockets=[place])


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        place = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not an address of this machine: {error}; leave it out") from None
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen(128)
    except OSError as error:
        place.close()
        reason = error.strerror or error
        raise InputError(
            f"--port {port} on {host} cannot be listened on: {reason}; --port 0 takes a free one"
        ) from None
    return place
