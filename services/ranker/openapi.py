"""The HTTP interface's bodies and answers as JSON schemas, for its OpenAPI description."""

from typing import Any

from services.ranker.schema import EVENT_LISTS, MAX_CANDIDATES, MAX_EVENTS

_ID = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}]}
_ITEM_ID = {"anyOf": [*_ID["anyOf"], {"type": "boolean"}]}
_FEATURES = {"type": "object", "description": "Features by name; `id` is one of them.", "additionalProperties": True}
_ITEM = {"anyOf": [*_ID["anyOf"], {**_FEATURES, "required": ["id"], "properties": {"id": _ITEM_ID}}]}
_MODEL = {
    "type": "object",
    "required": ["name", "commit", "age_ms"],
    "properties": {
        "name": {"type": "string"},
        "commit": {"type": "integer", "description": "The commit whose parameters scored."},
        "age_ms": {"type": "integer", "description": "Time since the replica was last at the end of the commit log."},
    },
}

RANK_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["user", "candidates"],
    "properties": {
        "user": _FEATURES,
        "context": _FEATURES,
        "candidates": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_CANDIDATES,
            "items": _ITEM,
        },
        "k": {"type": "integer", "minimum": 1, "description": "How many to return; default: all."},
        "log_impression": {
            "type": "boolean",
            "default": False,
            "description": "Log the answer, with the features that it was scored with, to the topic of impressions.",
        },
        "std": {
            "type": "boolean",
            "default": False,
            "description": "Add each score's standard deviation. Needs a model with Gaussian weights.",
        },
    },
    "example": {
        "user": {"id": "u42"},
        "context": {"tab": 1},
        "candidates": [{"id": "i1", "genre": ["Drama"]}, "i2", 3],
        "k": 2,
    },
}
"""JSON schema of the body of ``POST /v1/rank``."""

RANK_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["request_id", "model", "items"],
    "properties": {
        "request_id": {"type": "string"},
        "model": _MODEL,
        "items": {
            "type": "array",
            "description": "The best first; equal scores keep the order of the request.",
            "items": {
                "type": "object",
                "required": ["id", "score", "scores"],
                "properties": {
                    "id": _ITEM_ID,
                    "score": {"type": "number"},
                    "std": {"type": "number", "description": "Standard deviation of the score, where asked for."},
                    "scores": {"type": "object", "additionalProperties": {"type": "number"}},
                },
            },
        },
    },
}
"""JSON schema of the answer of ``POST /v1/rank``."""

EXPLAIN_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["user", "item"],
    "properties": {"user": _FEATURES, "context": _FEATURES, "item": _ITEM},
    "example": {"user": {"id": "u42"}, "context": {"tab": 1}, "item": {"id": "i1", "genre": ["Drama"]}},
}
"""JSON schema of the body of ``POST /v1/explain``."""

EXPLAIN_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model", "task", "bias", "fields", "logit"],
    "properties": {
        "model": _MODEL,
        "task": {
            "type": "string",
            "description": "Whose logit it is: the ranking score's task; of a formula the first.",
        },
        "bias": {"type": "number", "description": "What no feature accounts for."},
        "fields": {
            "type": "object",
            "description": "What each feature adds to the logit; bias and fields add up to it.",
            "additionalProperties": {"type": "number"},
        },
        "logit": {"type": "number"},
    },
}
"""JSON schema of the answer of ``POST /v1/explain``."""

FEATURES_BODY: dict[str, Any] = {**_FEATURES, "example": {"country": "US", "genre": ["Drama", "Crime"]}}
"""JSON schema of the body of ``PUT /v1/users/{id}`` and ``PUT /v1/items/{id}``."""

EVENTS_BODY: dict[str, Any] = {
    "type": "object",
    "description": f"1 to {MAX_EVENTS} events in all, as in the topics of these names (docs/asyncapi.yaml).",
    "properties": {name: {"type": "array", "maxItems": MAX_EVENTS, "items": {}} for name in EVENT_LISTS},
    "example": {
        "impressions": [
            {"request_id": "r1", "ts": 1700000000123, "user": {"id": "u42"}, "items": [{"id": "i1"}, {"id": "i2"}]},
        ],
        "actions": [{"request_id": "r1", "ts": 1700000004567, "item_id": "i1", "action": "click"}],
        "examples": [
            {"ts": 1700000000123, "user": {"id": "u42"}, "items": [{"id": "i1", "labels": {"click": 1}}]},
        ],
    },
}
"""JSON schema of the body of ``POST /v1/events``."""

EVENTS_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["accepted", "rejected"],
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["list", "index", "detail"],
                "properties": {
                    "list": {"enum": list(EVENT_LISTS)},
                    "index": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
"""JSON schema of the answer of ``POST /v1/events``."""
