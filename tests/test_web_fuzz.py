"""Whatever the description allows, and what it does not: the planner answers or refuses, never with a 500."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

schemathesis = pytest.importorskip("schemathesis", reason="fuzzing needs schemathesis")
pytest.importorskip("starlette", reason="the planner needs the extra `web`")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from distillscale.web.app import create_app  # noqa: E402
from distillscale.web.schema import openapi  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BASE = "http://127.0.0.1:8765"


def described() -> dict[str, object]:
    """The description without fits, each of which takes seconds of a process of its own (see test_web)."""
    found = openapi()
    return {**found, "paths": {path: item for path, item in found["paths"].items() if path != "/api/fit"}}


app = create_app()
schema = schemathesis.openapi.from_dict(described())
schema.app = app
schema.config.update(base_url=BASE)


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_question_breaks_the_planner(case) -> None:
    response = case.call()
    case.validate_response(response, checks=CHECKS)
