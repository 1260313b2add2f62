"""Optimizers through a shard, against torch's and plain NumPy ones on random data."""

import numpy as np
import pytest
import torch

from embedding_store.settings import TableSettings
from embedding_store.shard import Shard
from tests.shards import SEED, pooled, see

DIM, IDS, STEPS = 5, 7, 40


def rows_of(shard: Shard) -> np.ndarray:
    """Values of all ids: float32[IDS, 1 + DIM]."""
    return pooled(shard, [[key] for key in range(IDS)])[:, 0]


def run(table: TableSettings) -> tuple[np.ndarray, list[tuple[list[int], np.ndarray]], np.ndarray]:
    """Initial values, the batches (ids with repetitions, gradients), and the values afterwards."""
    rng = np.random.default_rng(5)
    shard = Shard([table], SEED)
    see(shard, [[key] for key in range(IDS)])  # rows are there; their gradients were zero
    before = rows_of(shard).copy()
    batches = []
    for _ in range(STEPS):
        ids = rng.integers(0, IDS, size=6).tolist()
        gradients = rng.normal(size=(6, 1, 1 + DIM)).astype(np.float32)
        see(shard, [[key] for key in ids], gradients=gradients)
        batches.append((ids, gradients[:, 0]))
    return before, batches, rows_of(shard)


def summed(ids: list[int], gradients: np.ndarray) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for key, g in zip(ids, gradients.astype(np.float64), strict=True):
        found[key] = found.get(key, 0.0) + g
    return found


def test_row_wise_adagrad_agrees_with_a_plain_loop():
    table = TableSettings(name="t", dim=DIM, learning_rate=0.1, linear_learning_rate=0.3, initial_accumulator=0.2)
    before, batches, after = run(table)
    w, state = before.astype(np.float64), np.full((IDS, 2), 0.2)
    for ids, gradients in batches:
        for key, g in summed(ids, gradients).items():
            state[key] += g[0] ** 2, (g[1:] ** 2).mean()
            w[key, 0] -= 0.3 * g[0] / np.sqrt(state[key, 0])
            w[key, 1:] -= 0.1 * g[1:] / np.sqrt(state[key, 1])
    np.testing.assert_allclose(after, w, rtol=2e-5, atol=1e-6)


def test_element_wise_adagrad_agrees_with_torch():
    table = TableSettings(
        name="t", dim=DIM, optimizer="adagrad_elementwise", learning_rate=0.1, linear_learning_rate=0.1,
        initial_accumulator=0.5,
    )  # fmt: skip
    before, batches, after = run(table)
    parameters = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in before]
    peers = [torch.optim.Adagrad([p], lr=0.1, initial_accumulator_value=0.5, eps=0.0) for p in parameters]
    for ids, gradients in batches:
        for key, g in summed(ids, gradients).items():
            parameters[key].grad = torch.tensor(g)
            peers[key].step()
    np.testing.assert_allclose(after, [p.detach().numpy() for p in parameters], rtol=2e-5, atol=1e-6)


def test_adam_agrees_with_torch_and_counts_each_rows_own_steps():
    table = TableSettings(name="t", dim=DIM, optimizer="adam", learning_rate=0.02, linear_learning_rate=0.02)
    before, batches, after = run(table)
    parameters = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in before]
    peers = [torch.optim.Adam([p], lr=0.02) for p in parameters]
    for p, peer in zip(parameters, peers, strict=True):  # the sighting that made the row was a step without gradient
        p.grad = torch.zeros_like(p)
        peer.step()
    for ids, gradients in batches:
        for key, g in summed(ids, gradients).items():
            parameters[key].grad = torch.tensor(g)
            peers[key].step()
    np.testing.assert_allclose(after, [p.detach().numpy() for p in parameters], rtol=1e-4, atol=2e-6)


def test_ftrl_agrees_with_the_published_algorithm():
    alpha, beta, l1, l2 = 0.3, 1.5, 0.4, 0.2
    table = TableSettings(
        name="t", dim=DIM, optimizer="ftrl", learning_rate=alpha, linear_learning_rate=alpha, beta=beta, l1=l1, l2=l2,
        init_std=0.5,
    )  # fmt: skip
    before, batches, after = run(table)
    w = before.astype(np.float64)
    z = -(w * (beta / alpha + l2) + np.where(w != 0, np.sign(w) * l1, 0.0))
    n = np.zeros_like(w)
    for ids, gradients in batches:
        for key, g in summed(ids, gradients).items():
            z[key] += g - (np.sqrt(n[key] + g**2) - np.sqrt(n[key])) / alpha * w[key]
            n[key] += g**2
            w[key] = np.where(
                np.abs(z[key]) <= l1, 0.0, -(z[key] - np.sign(z[key]) * l1) / ((beta + np.sqrt(n[key])) / alpha + l2)
            )
    np.testing.assert_allclose(after, w, rtol=1e-4, atol=1e-5)


def test_a_row_that_ftrl_leaves_without_a_weight_goes():
    table = TableSettings(name="t", dim=1, optimizer="ftrl", l1=1e3, init_std=0.1, learning_rate=1e3)
    shard = Shard([table], SEED)
    see(shard, [[4]])
    blocks, gone = shard.take_changes()
    assert shard.counts.tolist() == [1]  # born with a weight in its vector
    pull = float(np.sign(pooled(shard, [[4]])[0, 0, 1])) * 900
    see(shard, [[4]], gradients=[[[0.0, pull]]])
    blocks, gone = shard.take_changes()
    assert gone["t"].tolist() == [4]
    assert shard.counts.tolist() == [0]
    assert all(block.cold.all() for block in blocks)


@pytest.mark.parametrize("optimizer", ["adagrad", "adagrad_elementwise", "adam", "ftrl"])
def test_a_shard_rebuilt_from_its_blocks_learns_on_identically(optimizer: str):
    table = TableSettings(name="t", dim=3, optimizer=optimizer)
    shard, other = Shard([table], SEED), Shard([table], SEED)
    see(shard, [[1], [2]], gradients=0.3)
    for block in shard.take_changes()[0]:
        other.apply(block)
    other.clock_ms = shard.clock_ms
    for one in (shard, other):
        see(one, [[2], [3], [2]], gradients=-0.7)
    assert (rows_of(shard) == rows_of(other)).all()
