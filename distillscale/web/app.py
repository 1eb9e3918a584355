"""Routes and their limits: what may be asked how often, how large, how long; the answers themselves are elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import time
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .. import published
from ..arch import family
from ..errors import DistillscaleError, InputError
from ..hardware import DEFAULT_MFU, load_devices
from ..hfconfig import read_hf_config
from ..laws import DistillationLaw
from ..lawset import LawSet
from ..plain import as_json_text
from ..teachers import teachers_from
from .answers import Answers
from .bodies import Refused, failed, http_error, json_body, json_response, refuse, whole_body
from .fields import DEFAULTS, fit_options, in_fields, named_field
from .fitting import MOST_BYTES, MOST_ROWS, SECONDS, Busy, Fits, Gone, TooLong
from .guard import LOGIN, LOOPBACK, Guard, Tokens
from .laws import LawBook, UnknownUpload
from .schema import openapi

__all__ = ["MOST_LAW_BYTES", "MOST_QUESTION_BYTES", "Settings", "create_app"]

MOST_QUESTION_BYTES, MOST_LAW_BYTES = 256_000, 8_000_000
_AT_ONCE, _MOST_WAITING = 2, 100

_STATIC = Path(__file__).parents[1] / "static"
_PAGES = {
    "planner.html": "text/html",
    "planner.css": "text/css",
    "planner.js": "text/javascript",
    "charts.js": "text/javascript",
    "base.css": "text/css",
    "uplot.css": "text/css",
    "uplot.js": "text/javascript",
    "uplot.LICENSE": "text/plain",
}
"""The only files that are ever sent, read once at the start."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`law` is preselected in the page. With a token the server answers to any host name, without one to loopback's."""

    law: str = published.DEFAULT
    token: str | None = None
    remote: bool = False
    fits: int = 2
    fit_seconds: float = SECONDS


def create_app(settings: Settings | None = None, own_law: LawSet | None = None) -> ASGIApp:
    """The planner as an ASGI application; `own_law` is a law file that the one who starts it has read."""
    return _Planner(settings or Settings(), own_law).app


class _Planner:
    def __init__(self, settings: Settings, own_law: LawSet | None) -> None:
        self.laws = LawBook()
        self.law = settings.law
        self.own: dict[str, Any] | None = None
        if own_law is not None:
            self.law, _ = self.laws.add(own_law.to_json(), keep=True)
            self.own = _about(self.law, own_law)
        self.answers, self.fits = Answers(self.laws), Fits(settings.fits, settings.fit_seconds)
        self.tokens = None if settings.token is None else Tokens(settings.token)
        self.files = {name: (_STATIC / name).read_bytes() for name in _PAGES}
        self.places, self.waiting = anyio.CapacityLimiter(_AT_ONCE), 0
        self.description = openapi()
        inner = Starlette(
            routes=self._routes(),
            exception_handlers={Refused: refuse, HTTPException: http_error, Exception: failed},
        )
        hosts = None if settings.remote and self.tokens else LOOPBACK
        self.app = Guard(inner, hosts, self.tokens)

    def _routes(self) -> list[Route]:
        ask = self.answers
        questions: dict[str, Callable[[object], Any]] = {
            "predict": ask.predict,
            "plan": ask.plan,
            "break-even": ask.break_even,
            "teachers": ask.teachers,
            "frontier": ask.frontier,
            "answer": ask.answer,
        }
        posts = {f"/api/{name}": self._asking(name, answer) for name, answer in questions.items()}
        posts |= {"/api/config": self.config, "/api/laws": self.add_law, "/api/teachers-file": self.teachers_file}
        posts |= {"/api/fit": self.fit, "/login": self.login}
        gets = {"/": self.page, "/static/{name}": self.static, "/openapi.json": self.openapi}
        gets |= {"/api/laws": self.list_laws, "/api/options": self.options}
        return [Route(path, call, methods=["POST"]) for path, call in posts.items()] + [
            Route(path, call, methods=["GET"]) for path, call in gets.items()
        ]

    # ---- what is served as it is

    async def page(self, request: Request) -> Response:
        return self._file(request, "planner.html")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _PAGES:
            raise Refused(404, "there is no such file")
        return self._file(request, name)

    def _file(self, request: Request, name: str) -> Response:
        content = self.files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_PAGES[name], headers=headers)

    async def openapi(self, request: Request) -> Response:
        return json_response(self.description)

    async def list_laws(self, request: Request) -> Response:
        return json_response(published.catalogue())

    async def options(self, request: Request) -> Response:
        """What the page offers."""
        laws = [_about(name, published.load_set(name)) for name in published.names()]
        devices = [
            {
                "name": d.name,
                "title": d.title,
                "precisions": list(d.peak_flops),
                "usd_per_hour": d.usd_per_hour,
                "price_date": d.price_date,
            }
            for d in load_devices().values()
        ]
        found = {"laws": [*([self.own] if self.own else []), *laws], "law": self.law, "devices": devices}
        return json_response(found | {"family": list(family()), "defaults": {**DEFAULTS, "mfu": DEFAULT_MFU}})

    # ---- questions

    def _asking(self, question: str, answer: Callable[[object], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            body = await json_body(request, MOST_QUESTION_BYTES)
            return await self._computed(question, lambda: answer(body), indent=None if question == "answer" else 2)

        return handle

    async def _computed(self, question: str, compute: Callable[[], Any], indent: int | None = 2) -> Response:
        """Off the event loop, a few at once; where too many wait, ask again later."""
        if self.waiting >= _MOST_WAITING:
            raise Refused(503, "too many questions wait; ask again in a second")

        def timed() -> tuple[str, float]:
            start = time.perf_counter()
            text = as_json_text(compute(), indent=indent)
            return text, 1e3 * (time.perf_counter() - start)

        arrived = time.perf_counter()
        self.waiting += 1
        try:
            text, spent = await anyio.to_thread.run_sync(timed, limiter=self.places)
        except UnknownUpload as error:
            raise Refused(404, in_fields(str(error)), field="law") from None
        except DistillscaleError as error:
            message = in_fields(str(error))
            raise Refused(422, message, field=named_field(message, question)) from None
        finally:
            self.waiting -= 1
        total = 1e3 * (time.perf_counter() - arrived)
        timing = {"server-timing": f"compute;dur={spent:.1f}, total;dur={total:.1f}"}
        return Response(text + "\n", media_type="application/json", headers=timing)

    async def config(self, request: Request) -> Response:
        """What the planner takes from a config.json."""
        body = await json_body(request, MOST_QUESTION_BYTES)

        def shape() -> dict[str, Any]:
            if not isinstance(body, dict):
                raise InputError("config must be the content of a config.json, a JSON object")
            arch = read_hf_config(cast("dict[str, Any]", body))
            flops = arch.forward_flops_per_token
            return {"params": arch.params, "total_params": arch.total_params, "forward_flops_per_token": flops}

        return await self._computed("answer", shape)

    async def add_law(self, request: Request) -> Response:
        """Keep an uploaded law in memory; the answer's `id` is its name in questions."""
        body = await json_body(request, MOST_LAW_BYTES)
        return await self._computed("answer", lambda: _about(*self.laws.add(body)))

    async def teachers_file(self, request: Request) -> Response:
        """The rows of a teachers.toml, checked."""
        text = await whole_body(request, MOST_QUESTION_BYTES, "text/plain")

        def rows() -> dict[str, Any]:
            try:
                data = tomllib.loads(text.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"teachers file is not TOML: {error}; write [[teacher]] tables") from None
            teachers_from(data, "teachers file")
            return {"owned": data["teacher"]}

        return await self._computed("answer", rows)

    async def fit(self, request: Request) -> Response:
        """Fit an uploaded run table; closing the request ends the fit."""
        try:
            options = fit_options(request.query_params)
        except InputError as error:
            raise Refused(422, in_fields(str(error)), field=named_field(str(error), "fit")) from None
        table = await whole_body(
            request, MOST_BYTES, "text/csv", "text/plain", "application/x-ndjson", "application/json"
        )
        if table[:4] == b"PAR1":  # a small file may unpack into a large one
            raise Refused(422, "a run table must be CSV or JSON lines here; got Parquet; fit it on the command line")
        if table.count(b"\n") > MOST_ROWS:
            raise Refused(413, f"a run table may have at most {MOST_ROWS:,} rows here; fit it on the command line")

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        try:
            found = await self.fits.run(options, table, gone)
        except Busy:
            raise Refused(503, "as many fits as may are running; try again in a minute") from None
        except TooLong:
            seconds = f"{self.fits.seconds:.0f}"
            raise Refused(
                422, f"the fit took more than {seconds} s; give fewer resamples, or fit on the command line"
            ) from None
        except Gone:
            return Response(status_code=499)
        if "error" in found:
            raise Refused(422, in_fields(found["error"]))
        return json_response(found, indent=None)

    async def login(self, request: Request) -> Response:
        """Exchange the token for a cookie."""
        body = await whole_body(request, 4_000, "application/x-www-form-urlencoded")
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        response = RedirectResponse("/", 303)
        if self.tokens is not None:
            if not self.tokens.accepts(given.strip()):
                await asyncio.sleep(0.5)
                return HTMLResponse(LOGIN.format(note="That is not the token."), 401)
            self.tokens.seal(response)
        return response


def _about(name: str, law: LawSet) -> dict[str, Any]:
    plans = isinstance(law.law, DistillationLaw)
    return {"id": name, "name": law.name, "form": law.form, "plans": plans, "table": law.table} | {
        "caveats": list(law.caveats)
    }
