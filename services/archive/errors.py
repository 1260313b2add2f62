"""What can go wrong with an archive.

::

    ArchiveError              fatal: stop and say why
    ├── ArchiveOvertaken      another archiver writes here now
    └── ArchiveUnavailable    retryable: the file system did not answer
"""


class ArchiveError(Exception):
    """Base of every failure of an archive."""


class ArchiveOvertaken(ArchiveError):
    """Another archiver writes here now. End, and change nothing."""


class ArchiveUnavailable(ArchiveError):
    """The file system did not answer, or refused. Retry."""
