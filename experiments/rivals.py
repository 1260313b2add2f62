"""Every way to hold a model's tables with fewer numbers, trained and scored alike: one data set, one seed."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_store.encodings.frequency import frequency_dims
from embedding_store.encodings.settings import EncodingSettings
from experiments import encoded
from experiments.encoded import Outcome
from trainer.definition import Definition
from trainer.dimension_search import Blocks, Recipe, cut, search
from trainer.search.fitting import Fitted, fit
from trainer.search.matrices import Matrices

SHARES = (0.3, 0.2, 0.1)
"""Of the parameters of rows of full width."""
WIDTHS = (1, 2, 4, 8, 16)
FULL = f"uniform {WIDTHS[-1]}"
_LARGE = 200  # ids of a table from which on hashing and factors pay
_POWERS = np.linspace(0.0, 1.5, 151)
_NEAR = 0.01  # of the target: not worth a narrower table
Mask = NDArray[np.bool_]


class Setting(NamedTuple):
    """What all rivals share."""

    definition: Definition
    data: Matrices
    recipe: Recipe
    blocks: Blocks


def outcomes(definition: Definition, data: Matrices, recipe: Recipe) -> dict[str, Outcome]:
    """All of them by name, :data:`FULL` among them.

    Args:
        definition: The model.
        data: Tables of 16 numbers.
        recipe: Of the search; all rivals learn from as many examples as it and its tuning.
    """
    setting = Setting(definition, data, recipe, cut(data, recipe))
    found: dict[str, Outcome] = {}
    for one in (_uniform, _weighted, _searched, _by_frequency, _encoded):
        found |= one(setting)
    return found


def _of_fitted(fitted: Fitted, passes: float = 0.0, search_s: float = 0.0) -> Outcome:
    passes += fitted.passes
    return Outcome(fitted.scores, fitted.parameters, fitted.bytes, passes, fitted.seconds, search_s)


def _first(setting: Setting, width: int) -> Mask:
    kept = np.zeros((len(setting.blocks.rows), setting.data.dim), dtype=np.bool_)
    kept[:, :width] = True
    return kept


def _uniform(s: Setting) -> dict[str, Outcome]:
    return {f"uniform {w}": _of_fitted(fit(s.definition, s.data, s.recipe, _first(s, w))) for w in WIDTHS}


def _weighted(s: Setting) -> dict[str, Outcome]:
    """Uniform rows with an alpha that is learned and never prunes: what shrinkage alone brings."""
    found = {}
    for width in WIDTHS:
        fitted = fit(s.definition, s.data, s.recipe, _first(s, width), alpha="vector")
        found[f"uniform {width}, an alpha a block and dimension"] = _of_fitted(fitted)
    fitted = fit(s.definition, s.data, s.recipe, alpha="scalar")
    found[f"{FULL}, an alpha a block"] = _of_fitted(fitted)
    return found


def _searched(s: Setting) -> dict[str, Outcome]:
    """DNIS: its pruned models tuned, trained from fresh values, and the better of both on validation."""
    found = {}
    searched = search(s.definition, s.data, s.recipe)
    cost = searched.passes, searched.seconds
    for share in SHARES:
        kept = searched.kept(share)
        tuned = fit(s.definition, s.data, s.recipe, kept, searched)
        afresh = fit(s.definition, s.data, s.recipe, kept)
        better = _of_fitted(max(tuned, afresh, key=lambda one: one.validation.auc), *cost)
        passes, seconds = searched.passes + tuned.passes + afresh.passes, tuned.seconds + afresh.seconds
        found[f"DNIS, {share:.0%}"] = better._replace(passes=passes, seconds=seconds)
        found[f"DNIS tuned, {share:.0%}"] = _of_fitted(tuned, *cost)
        found[f"DNIS trained afresh, {share:.0%}"] = _of_fitted(afresh, *cost)
    unaligned = replace(s.recipe, align=False)
    searched = search(s.definition, s.data, unaligned)
    tuned = fit(s.definition, s.data, unaligned, searched.kept(SHARES[0]), searched)
    found[f"DNIS tuned on axes as they are, {SHARES[0]:.0%}"] = _of_fitted(tuned, searched.passes, searched.seconds)
    return found


def by_rule(blocks: Blocks, dim: int, share: float) -> tuple[Mask, int, float]:
    """The frequency rule at a share of the parameters.

    Returns:
        What each block keeps, bool[B, K], the width of the most frequent block and the exponent: the widest with which
        some exponent comes as near to the share as any.
    """
    target = share * int(blocks.rows.sum()) * dim
    best, nearest = (dim, 0.0), np.inf
    for largest in range(dim, 0, -1):
        for power in _POWERS:
            distance = abs(float(_dims(blocks, largest, power) @ blocks.rows) - target)
            if distance < nearest - _NEAR * target:
                best, nearest = (largest, float(power)), distance
    return np.arange(dim) < _dims(blocks, *best)[:, None], *best


def _dims(blocks: Blocks, largest: int, power: float) -> NDArray[np.int64]:
    return np.concatenate([np.array(frequency_dims(bounds, largest, power)) for bounds in blocks.bounds.values()])


def _by_frequency(s: Setting) -> dict[str, Outcome]:
    found = {}
    for share in SHARES:
        kept, *_ = by_rule(s.blocks, s.data.dim, share)
        found[f"frequency rule, {share:.0%}"] = _of_fitted(fit(s.definition, s.data, s.recipe, kept))
        if share != SHARES[-1]:
            fitted = fit(s.definition, s.data, s.recipe, kept, alpha="vector")
            found[f"frequency rule and alpha, {share:.0%}"] = _of_fitted(fitted)
    return found


def _encoded(s: Setting) -> dict[str, Outcome]:
    """The encodings that are no mask. Tables of few ids stay whole: there is nothing to win, and much to confuse."""
    ids = {table.name: table.last - table.first for table in s.data.tables}
    share = SHARES[0]
    _, largest, power = by_rule(s.blocks, s.data.dim, share)

    def settings(of_large: Callable[[str], EncodingSettings]) -> dict[str, EncodingSettings]:
        plain = EncodingSettings(kind="uniform")
        return {name: of_large(name) if count >= _LARGE else plain for name, count in ids.items()}

    def buckets(name: str) -> int:
        return max(1, round(share * ids[name]))

    total = sum(count for count in ids.values() if count >= _LARGE)
    width = s.data.dim // 4
    ways: dict[str, Callable[[str], EncodingSettings]] = {
        "hashed, one hash": lambda name: EncodingSettings(kind="hashed", buckets=buckets(name)),
        "hashed, two hashes": lambda name: EncodingSettings(kind="hashed", buckets=buckets(name), hashes=2),
        "unified, four lookups": lambda _: EncodingSettings(
            kind="unified", buckets=max(1, round(4 * share * total)), hashes=4
        ),
        f"low rank {width}": lambda _: EncodingSettings(kind="low_rank", rank=width),
        "frequency rule with projections": lambda name: EncodingSettings(
            kind="frequency", bounds=s.blocks.bounds[name], power=power, dim=largest
        ),
    }
    found = {name: _trained(s, settings(way), (None,))[0] for name, way in ways.items()}
    plain = {name: EncodingSettings(kind="uniform") for name in ids}
    rounded, exact = _trained(s, plain, ("int8", None))
    found |= {f"{FULL} in the store's rows": exact, "the same rows in int8": rounded}
    nested = {name: EncodingSettings(kind="nested", prefixes=WIDTHS) for name in ids}
    served = zip(WIDTHS, _trained(s, nested, WIDTHS), strict=True)
    return found | {f"nested, served by {prefix}": outcome for prefix, outcome in served}


def _trained(s: Setting, settings: dict[str, EncodingSettings], ways: tuple[encoded.Way, ...]) -> list[Outcome]:
    return encoded.fit(s.definition, s.data, s.recipe, settings, ways)
