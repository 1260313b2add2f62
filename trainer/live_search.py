"""The dimension search of a running trainer: off, proposing, or taking over what it finds."""

import logging

from trainer.learner import Learner
from trainer.metrics import TrainerMetrics
from trainer.search.online import OnlineSearch, searched
from trainer.settings import TrainerSettings
from trainer.takeover import Takeover

_log = logging.getLogger(__name__)


class LiveSearch:
    """Judges after each batch. With `dimension_search = "off"` it does nothing, and a commit carries nothing of it.

    Args:
        settings: Of the trainer.
        learner: Whose batches are observed.
        takeover: Takes plans over.
        metrics: Told of proposals.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        learner: Learner,
        takeover: Takeover,
        metrics: TrainerMetrics,
    ) -> None:
        self._mode = settings.dimension_search
        self._learner = learner
        self._takeover = takeover
        self._metrics = metrics
        if self._mode != "off":
            names = searched(learner.scorer.definition.tables, settings.search.tables)
            learner.search = OnlineSearch(learner.shard, settings.search, names, self._mode == "auto")

    def judge(self) -> None:
        """Proposes what the stream shows by now. Plans that are taken over hold for the next batch."""
        search, is_taken = self._learner.search, self._mode == "auto"
        proposals = search.judge() if search is not None else []
        for found in proposals:
            widths = "/".join(str(len(kept)) for kept in found.plan.kept)
            share = 100 * found.numbers / max(found.numbers_before, 1.0)
            _log.info("the search has a plan for table %r: %s numbers a vector, %.0f %%", found.table, widths, share)
            self._metrics.search.proposed(found, is_taken)
        if proposals and is_taken:
            self._takeover.take({found.table: found.plan for found in proposals})
