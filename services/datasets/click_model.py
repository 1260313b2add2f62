"""The click model of the synthetic data: who likes what, and how that drifts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COUNTRIES = ("US", "BR", "IN", "DE", "FR", "JP", "GB", "MX", "ID", "NG", "KR", "SE")
DEVICES = ("ios", "android", "web", "tv")
CATEGORIES = 24
DAY_MS = 86_400_000
_TASTE_DIM = 4
_ITEM_SD, _USER_SD, _COUNTRY_SD, _DEVICE_SD, _TASTE_SD, _DRIFT_SHARE = 0.4, 0.1, 0.85, 0.5, 0.15, 0.1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClickModel:
    """Fixed features and hidden tastes of all users and items.

    What an id has is drawn from the seed alone. Tastes move on slow circles of event time, so the model is a function
    of time and needs no state.

    Attributes:
        country: int64[U], of each user.
        device: int64[U], the device that a user holds most often.
        category: int64[I], of each item.
        price: float64[I], in whole cents.
        log_price: float64[I], standardised.
        user_weights: float64[U], cumulative: how often a user comes.
        item_weights: float64[I], cumulative: how often an item is shown. Items are numbered in order of birth.
        quality: float64[I], an item's own log odds.
        mood: float64[U], a user's own log odds.
        affinity: float64[2, countries, categories], a country's lasting and its drifting taste.
        affinity_phase: float64[countries, categories], in radians.
        device_affinity: float64[devices, categories].
        price_slope: float64[countries], log odds a standard deviation of log price.
        taste: float64[U, K], the size of a user's taste on each axis.
        taste_phase: float64[U, K], in radians.
        appeal: float64[I, K], what an item is on each axis.
        born_ms: float64[I], when an item appears, ms after the start; 0 for the first half.
        intercept: Log odds that give the base rate.
    """

    country: Ints
    device: Ints
    category: Ints
    price: Floats
    log_price: Floats
    user_weights: Floats
    item_weights: Floats
    quality: Floats
    mood: Floats
    affinity: Floats
    affinity_phase: Floats
    device_affinity: Floats
    price_slope: Floats
    taste: Floats
    taste_phase: Floats
    appeal: Floats
    born_ms: Floats
    intercept: float = 0.0

    def log_odds(self, user: Ints, device: Ints, item: Ints, after_ms: Ints) -> Floats:
        """The true log odds of a click.

        Args:
            user: int64[L], who looks.
            device: int64[L], on which device.
            item: int64[L, S], at which items.
            after_ms: int64[L], event time in ms after the start.

        Returns:
            float64[L, S].
        """
        days = after_ms / DAY_MS
        country, category = self.country[user], self.category[item]
        place = country[:, None], category
        odds = self.quality[item]
        odds += (self.mood[user] + 0.15 * np.cos(2 * np.pi * (days - 20 / 24)) + self.intercept)[:, None]
        odds += self.affinity[0][place] + self.affinity[1][place] * np.cos(
            2 * np.pi * days[:, None] / 28 + self.affinity_phase[place]
        )
        odds += self.device_affinity[device[:, None], category]
        odds += self.price_slope[country][:, None] * self.log_price[item]
        taste = self.taste[user] * np.cos(2 * np.pi * days[:, None] / 28 + self.taste_phase[user])
        odds += np.einsum("lk,lsk->ls", taste, self.appeal[item])
        return odds


def make_click_model(seed: int, users: int, items: int) -> ClickModel:
    """Draws the features and tastes of all users and items.

    Args:
        seed: Equal seeds give equal models.
        users: How many users there are.
        items: How many items there are once all have appeared: half from the start, the rest within a week.
    """
    rng = np.random.default_rng((seed, 0))
    category = rng.integers(0, CATEGORIES, items)
    log_price = rng.standard_normal(items)
    axes = rng.standard_normal((CATEGORIES, _TASTE_DIM))
    first = (items + 1) // 2
    shape = len(COUNTRIES), CATEGORIES
    return ClickModel(
        country=_zipf_draws(rng, len(COUNTRIES), users),
        device=_zipf_draws(rng, len(DEVICES), users),
        category=category,
        price=np.round(np.maximum(20 * np.exp(log_price), 0.01), 2),
        log_price=log_price,
        user_weights=np.cumsum(_zipf(rng, users, 0.8)),
        item_weights=np.cumsum(_zipf(rng, items, 1.1)),
        quality=_ITEM_SD * rng.standard_normal(items),
        mood=_USER_SD * rng.standard_normal(users),
        affinity=_COUNTRY_SD * np.sqrt([[[1 - _DRIFT_SHARE]], [[2 * _DRIFT_SHARE]]]) * rng.standard_normal((2, *shape)),
        affinity_phase=rng.uniform(0, 2 * np.pi, shape),
        device_affinity=_DEVICE_SD * rng.standard_normal((len(DEVICES), CATEGORIES)),
        price_slope=-0.55 + 0.25 * rng.standard_normal(len(COUNTRIES)),
        taste=_TASTE_SD * np.sqrt(2 / _TASTE_DIM) * rng.standard_normal((users, _TASTE_DIM)),
        taste_phase=rng.uniform(0, 2 * np.pi, (users, _TASTE_DIM)),
        appeal=axes[category] + 0.3 * rng.standard_normal((items, _TASTE_DIM)),
        born_ms=np.maximum(np.arange(items) - first + 1, 0) * (7 * DAY_MS / max(items - first, 1)),
    )


def _zipf(rng: np.random.Generator, count: int, exponent: float) -> Floats:
    """float64[count], zipf weights in random order."""
    weights: Floats = np.power(rng.permutation(count) + 1.0, -exponent)
    return weights


def _zipf_draws(rng: np.random.Generator, kinds: int, count: int) -> Ints:
    weights = 1 / np.arange(1, kinds + 1)
    return rng.choice(kinds, count, p=weights / weights.sum())
