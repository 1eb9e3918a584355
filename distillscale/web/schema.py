"""The HTTP interface described (OpenAPI 3.1), made from the fields and rules themselves; it handles nothing."""

from __future__ import annotations

from typing import Any

from .. import __version__, asking, published
from .fields import DEFAULTS, FIELDS, MOST_RESAMPLES, MOST_TEACHERS

__all__ = ["openapi"]

Schema = dict[str, Any]

_NUMBER: Schema = {"type": "number"}
_MAYBE: Schema = {"type": ["number", "null"]}
_TEXT: Schema = {"type": "string"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_ENDS: Schema = {"type": ["array", "null"], "items": _MAYBE, "minItems": 2, "maxItems": 2}
_OBJECT: Schema = {"type": "object"}
_ROWS: Schema = {"type": "array", "items": _OBJECT}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_DESCRIPTIONS = {
    "student": "Non-embedding parameters (1.5B, 3e9) or a row of the paper's family (paper:546M).",
    "config": "In place of student: the content of a Hugging Face config.json.",
    "budget": "Total for this student: FLOPs (1e21), '5000 USD' or '2000 H100-hours'.",
    "target_loss": "In place of a budget: the cheapest plan to this loss, nats per token.",
    "teacher": "Who pays for the teacher: nothing, its logits, its training, both.",
    "law": "A published set, or the id of an uploaded law.",
    "owned": "Teachers one owns: name, params, loss, and optionally tokens, usd_per_million_tokens.",
    "total_params": "Counts include the (tied) embeddings.",
    "tokens": "Student training tokens.",
    "students": "Counts, as a list or as text: 300M,1B,3B or 1e8:1e10:20.",
    "budgets": "Total FLOPs, as a list or as text: 1e19:1e24:50.",
    "scenarios": "Of free, inference, pretraining, both.",
}

_LIST: Schema = {"anyOf": [_TEXT, {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1}]}
_SPECIAL: dict[str, Schema] = {
    "student": {"type": ["string", "number", "null"], "maxLength": 400, "examples": ["3B"]},
    "budget": {"type": ["string", "number", "null"], "maxLength": 400, "examples": ["1e21"]},
    "config": {"type": ["object", "null"]},
    "teacher": {"enum": [*asking.SCENARIOS, None]},
    "law": {"type": ["string", "null"], "maxLength": 400, "examples": [published.DEFAULT]},
    "device": {"type": ["string", "null"], "maxLength": 400},
    "precision": {"type": ["string", "null"], "maxLength": 400},
    "total_params": {"type": ["boolean", "null"]},
    "owned": {"type": ["array", "null"], "items": _OBJECT, "maxItems": MOST_TEACHERS},
    "students": _LIST,
    "budgets": _LIST,
    "scenarios": _LIST,
}


def _field(name: str) -> Schema:
    rule = asking.RULES.get(name)
    if name in _SPECIAL:
        schema = dict(_SPECIAL[name])
    elif isinstance(rule, asking.Count | asking.Number):
        schema = {"type": ["number", "string", "null"], "minimum": rule.least, "maximum": rule.most}
    else:
        assert isinstance(rule, asking.Whole)
        schema = {"type": ["integer", "string", "null"], "minimum": rule.least}
        schema |= {} if rule.most is None else {"maximum": rule.most}
    if name in DEFAULTS:
        schema["default"] = DEFAULTS[name]
    return schema | ({"description": _DESCRIPTIONS[name]} if name in _DESCRIPTIONS else {})


_TEACHER = _object(
    name=_TEXT, params=_NUMBER, loss=_NUMBER, student_loss=_NUMBER, gain_nats=_NUMBER, regime=_TEXT, flops=_NUMBER,
    usd=_MAYBE, warnings=_TEXTS,
)  # fmt: skip
_BREAK_EVEN = _object(
    law=_TEXT, scenario=_TEXT, student_params=_NUMBER, budget_flops=_MAYBE, interval=_ENDS, tolerance_nats=_NUMBER,
    negligible_from_flops=_MAYBE, behind_until_flops=_MAYBE, reason=_TEXT, folk_rule_flops=_NUMBER, warnings=_TEXTS,
)  # fmt: skip
_PLAN = _object(
    law=_TEXT, verdict={"enum": ["distill", "supervised", "toss-up"]}, probability=_MAYBE, gain_nats=_NUMBER,
    gain_interval=_ENDS, distillation=_OBJECT, supervised=_OBJECT, reasons=_TEXTS, warnings=_TEXTS,
)  # fmt: skip
_PREDICTION = _object(
    law=_TEXT, supervised_loss=_NUMBER, student_loss=_MAYBE, teacher_loss=_MAYBE, optimal_teacher_loss=_MAYBE,
    regime=_MAYBE_TEXT, interval=_ENDS, warnings=_TEXTS,
)  # fmt: skip
_LAW = _object(
    id=_TEXT, name=_TEXT, form=_TEXT, plans={"type": "boolean"}, table=_TEXT, caveats=_TEXTS
)  # fmt: skip

_QUESTIONS: dict[str, tuple[str, Schema]] = {
    "plan": ("The optimal split of a budget, the verdict, the bill and the reasons; as `plan --json`.", _PLAN),
    "break-even": ("The budget where supervised training catches up, or none and why.", _BREAK_EVEN),
    "predict": ("Loss of one student, alone and under a teacher.", _PREDICTION),
    "teachers": ("Teachers one owns, best first.", {"type": "array", "items": _TEACHER}),
    "frontier": ("Optimal plans over a grid, in numbers.", _object(rows=_ROWS, warnings=_TEXTS)),
    "answer": (
        "The plan with what a page shows beside it: break-even, words, figures, owned teachers, commands to copy.",
        _object(plan=_PLAN, break_even=_BREAK_EVEN, told=_OBJECT, charts=_ROWS, commands=_OBJECT)
        | {"additionalProperties": True},
    ),
}
_REQUIRED = {"predict": ["tokens"], "teachers": ["owned"], "frontier": ["students", "budgets", "scenarios"]}
_REFUSALS = {
    400: "The body is not JSON, or did not arrive whole.",
    401: "A token is needed.",
    403: "The request comes from a page of another origin.",
    404: "The uploaded law is not here any more.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    421: "The host is not one this server answers to.",
    422: "A value breaks a rule, or nothing satisfies the question; `field` is the one to look at.",
    503: "Too much is asked at once; ask again later.",
}


def openapi() -> Schema:
    """The whole description."""
    paths: Schema = {
        f"/api/{name}": {"post": _post(says, _body(_question(name)), answer)}
        for name, (says, answer) in _QUESTIONS.items()
    }
    shape = _object(params=_NUMBER, total_params=_NUMBER, forward_flops_per_token=_NUMBER)
    paths["/api/config"] = {"post": _post("What the planner takes from a config.json.", _body(_OBJECT), shape)}
    paths["/api/laws"] = {
        "get": _get("Published sets with source, regime and caveats; as `laws --json`.", _ROWS),
        "post": _post("Keep a law file in memory; `id` is its name in questions.", _body(_OBJECT), _LAW),
    }
    paths["/api/options"] = {"get": _get("What the page offers to choose from.", _OBJECT)}
    toml = {"required": True, "content": {"text/plain": {"schema": _TEXT}}}
    paths["/api/teachers-file"] = {"post": _post("The rows of a teachers.toml, checked.", toml, _object(owned=_ROWS))}
    paths["/api/fit"] = {"post": _fit()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "distillscale",
            "version": __version__,
            "description": "Train it or distill it? Losses in nats per token, intervals 90 %. Fields are the command "
            "line's options, answers have the keys of its --json.",
        },
        "paths": paths,
    }


def _question(name: str) -> Schema:
    properties = {field: _field(field) for field in FIELDS[name]}
    return {
        "type": "object",
        "properties": properties,
        "required": _REQUIRED.get(name, []),
        "additionalProperties": False,
    }


def _fit() -> Schema:
    kinds: dict[str, Schema] = {
        "law": {"enum": list(asking.FORMS), "default": "chinchilla"},
        "kind": {"enum": ["supervised", "distillation"]},
        "supervised": {"enum": list(published.names())},
        "bootstrap": {"type": "integer", "minimum": 0, "maximum": MOST_RESAMPLES, "default": 200},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "skip_bad_rows": {"enum": ["true", "false"]},
        "tokens_from_flops": {"enum": ["true", "false"]},
    }
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": kinds.get(name, {"type": "string", "maxLength": 400}),
        }
        for name in FIELDS["fit"]
    ]
    table = {"required": True, "content": {"text/csv": {"schema": _TEXT}, "application/x-ndjson": {"schema": _TEXT}}}
    answer = _object(fit=_OBJECT, law={"type": ["object", "null"]}, chart={"type": ["object", "null"]})
    says = "Fit a law to a run table (CSV or JSON lines), with certificate, intervals and held-out score."
    return _post(says, table, answer) | {"parameters": parameters}


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _get(says: str, answer: Schema) -> Schema:
    return {"summary": says, "responses": _responses(answer)}


def _post(says: str, body: Schema, answer: Schema) -> Schema:
    return {"summary": says, "requestBody": body, "responses": _responses(answer)}


def _responses(answer: Schema) -> Schema:
    refusal = _object(error=_TEXT) | {"properties": {"error": _TEXT, "field": _MAYBE_TEXT}}
    refused = {
        str(status): {"description": says, "content": {"application/json": {"schema": refusal}}}
        for status, says in _REFUSALS.items()
    }
    return {"200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}}} | refused
