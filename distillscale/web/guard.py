"""Who may ask, and what every answer carries: hosts, origins, token, headers; what is asked it does not know.

A page of another site must not read or steer a planner on loopback: requests under a foreign Host (a name rebound to
this address) or from a foreign Origin are refused before anything is read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOOPBACK", "SECURITY_HEADERS", "Guard", "Tokens"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_COOKIE = "distillscale_session"
_OPEN = frozenset({"/login", "/static/base.css"})


class Tokens:
    """One token, and the cookie that stands for it; both are compared in constant time, the token is never sent."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._cookie = hmac.new(secrets.token_bytes(32), self._token, hashlib.sha256).hexdigest()

    def accepts(self, token: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token)

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries the token, as a bearer or by the cookie of `/login`."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
        return (scheme.lower() == "bearer" and self.accepts(token.strip())) or hmac.compare_digest(
            cookie.encode("utf-8", "surrogatepass"), self._cookie.encode()
        )

    def seal(self, response: Response) -> None:
        """Set the cookie; a page of another site cannot send it, a script cannot read it."""
        response.set_cookie(_COOKIE, self._cookie, httponly=True, samesite="strict", path="/")


class Guard:
    """The outermost layer. `hosts` are the names this server answers to, None for any (then a token is required)."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, tokens: Tokens | None) -> None:
        self.app, self.hosts, self.tokens = app, hosts, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no websockets here
            return await send({"type": "websocket.close", "code": 1008})

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refuse(Headers(scope=scope), scope["method"], scope["path"])
        return await (refusal or self.app)(scope, receive, sealed)

    def _refuse(self, headers: Headers, method: str, path: str) -> Response | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(f"//{host}") not in self.hosts:
            return _no(421, f"this server does not answer to host {host!r:.80}; open it as http://127.0.0.1 …")
        if method not in ("GET", "HEAD"):
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
                return _no(403, "requests from pages of other origins are refused")
        if self.tokens is None or path in _OPEN or self.tokens.admits(headers):
            return None
        if path == "/" and method in ("GET", "HEAD"):
            return HTMLResponse(LOGIN.format(note=""), 401)
        return _no(401, "a token is needed: send it as Authorization: Bearer …, or open / and enter it")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _no(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>distillscale: token</title><link rel="stylesheet" href="/static/base.css"></head>
<body class="login"><main><h1>distillscale</h1><p role="alert">{note}</p>
<form method="post" action="/login"><p><label>Token<br>
<input type="password" name="token" autocomplete="current-password" required autofocus></label></p>
<button>Open the planner</button></form></main></body></html>
"""
