"""Compiles every kernel before the first real batch; a later start finds them in Numba's cache."""

import numpy as np

from embedding_store.plan import TablePlan
from embedding_store.shard import Shard
from trainer.definition import Definition
from trainer.example import Columns, ToldColumns
from trainer.learner import Learner


def compile_kernels(definition: Definition) -> None:
    """Learns from two empty examples, of which one comes again, with a model that is thrown away."""
    learner = Learner(definition, Shard(definition.tables, definition.seed, True, definition.admission))
    before = Columns(np.array([1]), np.array([0]), {}, np.empty((1, 0), dtype=np.float32), np.ones(1, dtype=np.float32))
    columns = Columns(
        sizes=np.array([2]),
        ts=np.array([0]),
        values={},
        labels=np.zeros((2, len(definition.tasks)), dtype=np.float32),
        weights=np.ones(2, dtype=np.float32),
        told=ToldColumns(np.array([1]), np.array([1]), np.array([0, -1]), before),
    )
    learner.score_and_learn(learner.scorer.featurizer.featurize(columns))
    learner.shard.sweep(1)
    for block in learner.shard.take_changes()[0]:
        learner.shard.apply(block)
    for table in definition.tables:
        if table.kind == "weights" and table.dim:
            learner.shard.set_plan(table.name, TablePlan((), ((0,),)))
    learner.shard.settle()
