"""The family of models on the same inputs, and peers beside it."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.bootstrap import Resampled
from experiments.data import Change, passed, shipped, there, with_model, without_statistics
from experiments.page import Page, table
from experiments.peers import PEERS
from experiments.run import Run
from experiments.stream import rates as rates_of
from experiments.stream import shipped as inputs_of
from services.settings import Settings
from trainer.settings import FeatureSettings
from trainer.validation import quality

DATASETS = {"kuairand": "video", "movietweetings": "movie"}
"""With the table that a visitor's past holds items of."""
_RATE = 1e-3


def _with_past(item: str) -> Change:
    past = FeatureSettings(name="past", kind="sequence", table=item, of="click", count=False)

    def change(settings: Settings) -> Settings:
        return settings.model_copy(update={"features": (*settings.features, past)})

    return change


def _family(item: str) -> dict[str, tuple[Change, ...]]:
    vectors = {name: with_model(name=name, learning_rate=_RATE) for name in ("fm", "deepfm", "dcn", "din")}
    plain = with_model(name="deepfm", wide=None, learning_rate=_RATE)
    return {
        "residual network, as shipped": (),
        "Gaussian weights alone": (with_model(hidden=()),),
        "FM": (vectors["fm"],),
        "DeepFM": (vectors["deepfm"],),
        "DCN": (vectors["dcn"],),
        "DIN over the last 20 clicks": (vectors["din"], _with_past(item)),
        "DeepFM, linear weights by Adagrad": (plain,),
        "the same without statistics": (plain, without_statistics),
    }


class Part(NamedTuple):
    """One learner over one stream; a peer has the number of its kind and of its inputs."""

    dataset: str
    learner: str
    seed: int
    limit: int | None
    peer: tuple[int, bool] | None = None


class Learned(NamedTuple):
    """What a pass gave.

    Attributes:
        labels: float64[n].
        scores: float64[n].
        embedding: Parameters of the rows; None of a peer.
        dense: Other parameters.
        rate: Examples a second.
    """

    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    embedding: int | None
    dense: int | None
    rate: float


def one_pass(part: Part) -> Learned:
    """Scores and learns one stream."""
    return _of_family(part) if part.peer is None else _of_peer(part, *part.peer)


def _of_family(part: Part) -> Learned:
    changes = _family(DATASETS[part.dataset])[part.learner]
    definition, batch_size = shipped(part.dataset, part.seed, *changes)
    found = passed(part.dataset, definition, batch_size, part.limit)
    labels, scores = found.known(0)
    parameters = found.report()["parameters"]
    return Learned(labels, scores, parameters["embedding"], parameters["dense"], labels.size / found.seconds)


def _of_peer(part: Part, number: int, more: bool) -> Learned:
    _, _, learner, *learning_rates = PEERS[number]
    inputs = inputs_of(part.dataset, part.limit)
    if more:
        inputs = inputs.beside(rates_of(part.dataset, part.limit))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse invariant checks", category=UserWarning)
        seconds, scores = learner(inputs, learning_rates[more])
    return Learned(inputs.labels, scores, None, None, inputs.labels.size / seconds)


def _peers(dataset: str, limit: int | None) -> list[Part]:
    """The peers that are installed, with the shipped inputs and with more."""
    return [
        Part(dataset, name + text, 1, limit, (number, more))
        for number, (name, package, *_) in enumerate(PEERS)
        if find_spec(package) is not None
        for text, more in (("", False), (" + ids and rates", True))
    ]


def run(how: Run) -> Page:
    """Accuracy, size and speed of every model and every peer, on every data set that is here."""
    names, missing = there(list(DATASETS))
    seeds = how.some_seeds(2)
    parts = []
    for d in reversed(names):  # the longest first
        parts += [Part(d, one, seed, how.limit) for one in _family(DATASETS[d]) for seed in seeds]
        parts += _peers(d, how.limit)
    learned = dict(zip(parts, how.each(one_pass, parts), strict=True))
    found: dict[str, dict[str, list[Learned]]] = {d: {} for d in names}
    for part, one in learned.items():
        found[part.dataset].setdefault(part.learner, []).append(one)
    absent = [name for name, package, *_ in PEERS if find_spec(package) is None]
    if absent:
        missing += f" Not installed here: {', '.join(absent)}."
    areas = {d: _late(learners) for d, learners in found.items()}
    sections, best = [], []
    for d, learners in found.items():
        body, first = _section(learners, areas[d])
        sections.append(f"## {d}\n\n{body}")
        best.append(f"{d} {first}")
    finding = f"Highest AUC over the second half of the stream: {'; '.join(best)}."
    text = (
        "One pass of every model, each list scored before it is learned, with the shipped features, statistics and "
        "sizes of batches. All but the last two of the family take the linear weights as Gaussian ones. Mean of "
        f"{len(seeds)} seeds (of peers: one) ± the standard error over resamples of seeds and examples; differences "
        "are paired. Peers learn from the ids and numbers that the shipped configuration gives its own model; once "
        f"more with smoothed rates and counts of the main ids beside them. {missing}\n\n"
        + "\n\n".join([*sections, _speed(found)])
    )
    return Page("The family of models", finding, text, _drawing(areas))


def _late(learners: dict[str, list[Learned]]) -> dict[str, Resampled]:
    """Over the second half; what was passed but once is the same under every seed."""
    seeds = max(len(some) for some in learners.values())
    half = next(iter(learners.values()))[0].labels.size // 2
    return {
        name: Resampled(some[0].labels[half:], [one.scores[half:] for one in some] * (seeds // len(some)))
        for name, some in learners.items()
    }


def _section(learners: dict[str, list[Learned]], areas: dict[str, Resampled]) -> tuple[str, str]:
    """A data set's table, and the best learner in a few words."""
    own, *_ = learners
    rows = []
    for name, some in learners.items():
        whole = [quality(one.labels, one.scores) for one in some]
        rows.append([
            name, f"{np.mean([one.auc for one in whole]):.4f}", str(areas[name].auc()),
            "" if name == own else areas[name].less(areas[own]).signed,
            f"{np.mean([one.normalized_entropy for one in whole]):.4f}",
            *("" if count is None else f"{count:,}" for count in (some[0].embedding, some[0].dense)),
        ])  # fmt: skip
    head = ["learner", "AUC", "AUC, second half", "less shipped", "normalized entropy", "parameters: rows", "others"]
    best = max(areas, key=lambda name: areas[name].auc().mean)
    text = f"{learners[own][0].labels.size:,} examples.\n\n{table(head, rows)}"
    return text, f"{best}, {areas[best].auc()}"


def _speed(found: dict[str, dict[str, list[Learned]]]) -> str:
    names = list(next(iter(found.values())))
    rates = [[f"{max(one.rate for one in learners[name]):,.0f}" for learners in found.values()] for name in names]
    return (
        "## Speed\n\nExamples a second of one thread, the best of the seeds, two passes side by side. Times of the "
        "machine that wrote this page: they are not repeated.\n\n"
        + table(["learner", *found], [[name, *row] for name, row in zip(names, rates, strict=True)])
    )


def _drawing(areas: dict[str, dict[str, Resampled]]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(areas), sharey=True))
        for axis, (dataset, of) in zip(axes, areas.items(), strict=True):
            own = next(iter(of.values()))
            some = [area.less(own) for area in of.values()]
            places = np.arange(len(some))
            axis.errorbar([one.mean for one in some], places, xerr=[one.error for one in some], fmt="o")
            axis.set(title=dataset, xlabel="AUC of the second half, less that of the shipped model", yticks=places)
            axis.set_yticklabels(list(of), fontsize=8)
            axis.grid(alpha=0.3)
        axes[0].invert_yaxis()

    return draw
