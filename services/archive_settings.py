"""The ``[archive]`` section of ``dolmen.toml``."""

from pydantic import Field

from embedding_store.settings import ByteSize, Duration, Section


class ArchiveSettings(Section):
    """From Kafka's examples to Parquet files."""

    path: str | None = Field(
        default=None, description="a folder, or a URL such as s3://bucket/examples; none: nothing is archived"
    )
    flush_interval: Duration = Field(default=300_000, description="wall time after which what was read is written")
    flush_bytes: ByteSize = Field(
        default=32 << 20, ge=1, description="of messages that were read; written once there are so many"
    )
