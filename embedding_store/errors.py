"""What can go wrong in the store.

::

    StoreError
    ├── StoreUnavailable      retryable: Redis did not answer, or is out of memory
    ├── AccessDenied          the Redis user may not do what the store needs
    ├── Fenced                fatal: another owner has raised the shard's epoch
    ├── LineageBroken         the log's last entry is not the one this owner appended last
    ├── LogTrimmed            a reader's next entry is gone: bootstrap again
    ├── StoreEmptied          fatal: nothing is left where this owner has committed
    ├── ServerEvicts          fatal: Redis would throw rows away when its memory is full
    ├── DefinitionConflict    fatal: the stored tables cannot serve the configured ones
    ├── NotEmpty              `load` refuses a store that holds something
    └── BadBytes              bytes that no version of the codec wrote
BadId                         a value that can be no id
"""


class StoreError(Exception):
    """Base of every failure of the store."""


class StoreUnavailable(StoreError):
    """Redis did not answer, or cannot take writes now. Retry."""


class AccessDenied(StoreError):
    """The Redis user lacks a permission that the store needs."""


class Fenced(StoreError):
    """Another owner has raised the shard's epoch. This one must end and change nothing."""


class LineageBroken(StoreError):
    """The store's last commit is not the one that this owner made last: it went back in time. Restore from it."""


class LogTrimmed(StoreError):
    """The entry that should come next is no longer in the log. Bootstrap again."""


class StoreEmptied(StoreError):
    """The store is empty where this owner has committed. Never taken for a fresh store."""


class ServerEvicts(StoreError):
    """Redis is configured to throw keys away when its memory is full. Nothing was changed."""


class DefinitionConflict(StoreError):
    """What is stored cannot go on under the configured definition."""


class NotEmpty(StoreError):
    """The store holds something already."""


class BadBytes(StoreError):
    """Bytes that no version of the codec wrote, or damaged ones."""


class BadId(ValueError):
    """A value that can be no id: a float, an object, a list or null."""
