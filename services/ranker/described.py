"""What ``GET /v1/model`` tells of a model."""

from collections.abc import Mapping
from typing import Any

from services.ranker.score import Model


def describe(model: Model, commit: int, age_ms: int, positions: Mapping[str, Any]) -> dict[str, Any]:
    """Commit, age, tasks, tables, features, plan.

    Args:
        model: What scores.
        commit: Its commit.
        age_ms: Since the replica was last at the log's end.
        positions: Of the commit, by topic.
    """
    definition, shard = model.definition, model.scorer.shard
    return {
        "commit": commit,
        "age_ms": age_ms,
        "fingerprint": definition.fingerprint,
        "model": definition.model.model_dump(mode="json"),
        "tasks": list(model.scorer.tasks),
        "score": model.scorer.ranking.text,
        "tables": [
            {"rows": int(shard.counts[t]), **table.model_dump(mode="json")} for t, table in enumerate(definition.tables)
        ],
        "features": [
            {k: v for k, v in feature.model_dump(mode="json").items() if v is not None and v != []}
            for feature in definition.features
        ],
        "parameters": {
            "embedding": shard.parameters,
            "dense": int(model.scorer.weights.size),
        },
        "plan": {name: {"bounds": plan.bounds, "kept": plan.kept} for name, plan in dict(shard.layouts.plans).items()}
        or None,
        "offsets": positions,
    }
