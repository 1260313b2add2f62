"""Settings of the dimension search on the live stream."""

from pydantic import Field

from embedding_store.settings import Section


class OnlineSearchSettings(Section):
    """How the live search goes about it."""

    tables: tuple[str, ...] = Field(default=(), description="those searched; default: every table with vectors")
    align: tuple[int, ...] = Field(
        default=(500_000, 1_000_000, 1_500_000),
        description="examples after which the axes are chosen anew, before any proposal",
    )
    interval: int = Field(default=50_000, ge=512, description="examples from one judgement to the next")
    least: int = Field(default=2_000, ge=1, description="lookups of a block before it is judged")
    gain: float = Field(
        default=0.1, gt=0, lt=1, description="share of a table's numbers saved, or of its lookups widened, to propose"
    )
    spare: int = Field(default=1, ge=0, description="dimensions that a block keeps beyond those in use")
    rate: float = Field(default=0.02, gt=0, le=1, description="of alpha's steps, one every 512 examples")
    penalty: float = Field(default=1.2, ge=0, description="how strongly alpha is drawn to 0")
