"""Learners that Dolmen is compared with, all of them by the rule of :mod:`experiments.stream`."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from experiments.stream import Inputs

HASHED_ROWS = 1 << 17
DIM = 8
Scores = tuple[float, NDArray[np.float64]]
"""Seconds, and float64[N], each example's probability before it was learned."""


def river_logistic(inputs: Inputs, rate: float) -> Scores:
    """River's logistic regression with Adagrad, one example at a time. Its dicts are made before the clock starts."""
    from river import linear_model, optim

    rows = []
    for row, values in zip(inputs.rows(), inputs.numbers.tolist(), strict=True):
        x: dict[Any, float] = {(f, key): 1.0 / len(keys) for f, keys in enumerate(row) for key in keys}
        x.update(enumerate(values))
        rows.append(x)
    labels = (inputs.labels > 0.5).tolist()
    model: Any = linear_model.LogisticRegression(optim.AdaGrad(rate), l2=0.0, intercept_lr=0.01)
    scores: list[float] = []
    start = time.perf_counter()
    for first, last in inputs.bounds():
        scores += [model.predict_proba_one(x)[True] for x in rows[first:last]]
        for i in range(first, last):
            model.learn_one(rows[i], labels[i])
    return time.perf_counter() - start, np.array(scores)


def _wabbit_lines(inputs: Inputs) -> Iterator[str]:
    for row, values in zip(inputs.rows(), inputs.numbers.tolist(), strict=True):
        fields = [f"|f{f} " + " ".join(f"{key}:{1 / len(keys):.6g}" for key in keys) for f, keys in enumerate(row)]
        yield " ".join(fields) + " |n " + " ".join(f"{n}:{value:.6g}" for n, value in enumerate(values))


def vowpal_wabbit(inputs: Inputs, rate: float) -> Scores:
    """Vowpal Wabbit's adaptive, normalised, invariant updates. Its text is made before the clock starts."""
    import vowpalwabbit

    lines = list(_wabbit_lines(inputs))
    labelled = [("1 " if y > 0.5 else "-1 ") + line for y, line in zip(inputs.labels.tolist(), lines, strict=True)]
    model = vowpalwabbit.Workspace(f"--loss_function logistic --link logistic --quiet -b 24 -l {rate}")
    scores: list[float] = []
    start = time.perf_counter()
    for first, last in inputs.bounds():
        if last - first == 1:  # its own prediction before the update saves parsing the line twice
            example = model.parse(labelled[first])
            model.learn(example)
            scores.append(example.get_simplelabel_prediction())
            model.finish_example(example)
            continue
        scores += [model.predict(line) for line in lines[first:last]]
        for line in labelled[first:last]:
            model.learn(line)
    seconds = time.perf_counter() - start
    model.finish()
    return seconds, np.array(scores)


class DeepFM(torch.nn.Module):
    """What a stranger writes first: linear, pairs and a network over one hashed table.

    **Source**: Guo et al. 2017, DeepFM (arXiv 1703.04247).
    """

    def __init__(self, fields: int, numbers: int) -> None:
        super().__init__()
        self.fields = fields
        self.table = torch.nn.EmbeddingBag(HASHED_ROWS, 1 + DIM, mode="mean", sparse=True)
        torch.nn.init.normal_(self.table.weight, std=0.01)
        width = fields * DIM + numbers
        self.network = torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        self.linear = torch.nn.Linear(numbers, 1) if numbers else None

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Logits float32[B] of flat ids int64[K], offsets int64[B * F] and numbers float32[B, M]."""
        rows = self.table(ids, offsets).view(-1, self.fields, 1 + DIM)
        vectors = rows[:, :, 1:]
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
        logits = rows[:, :, 0].sum(1) + pairs + self.network(torch.cat([vectors.flatten(1), numbers], 1))[:, 0]
        return torch.as_tensor(logits if self.linear is None else logits + self.linear(numbers)[:, 0])


def torch_deepfm(inputs: Inputs, rate: float, batch_size: int = 64) -> Scores:
    """Torch's sparse Adagrad for the table, Adam for the network, gradients averaged over the batch."""
    torch.manual_seed(1)
    width = len(inputs.fields)
    counts = np.diff(inputs.offsets)
    salt = np.array([xxhash.xxh3_64_intdigest(name.encode()) >> 1 for name in inputs.fields], dtype=np.int64)
    salts = np.repeat(np.tile(salt, inputs.labels.size), counts)
    places = torch.from_numpy((inputs.ids ^ salts) % HASHED_ROWS)
    offsets = torch.from_numpy(inputs.offsets)
    values = torch.from_numpy(inputs.numbers.astype(np.float32))
    labels = torch.from_numpy(inputs.labels.astype(np.float32))
    model = DeepFM(width, inputs.numbers.shape[1])
    dense = [p for name, p in model.named_parameters() if not name.startswith("table")]
    optimizers = (torch.optim.Adagrad(model.table.parameters(), lr=rate), torch.optim.Adam(dense, lr=1e-3))
    scores: list[float] = []
    start = time.perf_counter()
    for first, last in inputs.bounds(batch_size):
        begin, end = int(inputs.offsets[first * width]), int(inputs.offsets[last * width])
        logits = model(places[begin:end], offsets[first * width : last * width] - begin, values[first:last])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[first:last])
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward([loss])
        for optimizer in optimizers:
            optimizer.step()
        scores += torch.sigmoid(logits.detach().double()).tolist()
    return time.perf_counter() - start, np.array(scores)


Learner = Callable[[Inputs, float], Scores]
PEERS: tuple[tuple[str, str, Learner, float, float], ...] = (
    ("Vowpal Wabbit", "vowpalwabbit", vowpal_wabbit, 0.3, 0.1),
    ("River, logistic regression", "river", river_logistic, 0.05, 0.02),
    ("torch DeepFM, hashed table", "torch", torch_deepfm, 0.02, 0.01),
)
"""Name, package, learner, learning rates for both inputs: the best of a few on KuaiRand's first half."""
