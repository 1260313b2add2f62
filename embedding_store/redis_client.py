"""How the store reaches Redis, and how its failures are named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedding_store.errors import AccessDenied, StoreUnavailable
from embedding_store.settings import StoreSettings

DEFAULT_URL = "redis://127.0.0.1:6379/0"


_PASSING = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)
"""Refusals that pass; redis-py takes their code off the text, while others keep it."""
_PASSING_CODES = ("OOM", "LOADING", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN")
_DENIED_IN_SCRIPT = "The user executing the script"

Client: TypeAlias = Any
"""A ``redis.Redis`` that answers in bytes; redis-py's own types leave open whether bytes or text come back."""


def connect(settings: StoreSettings) -> Client:
    """A client of the configured Redis.

    Commands are not retried by the client: the store settles what got no answer.
    """
    options: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "ssl_ca_certs": settings.ssl_ca_certs,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    timeout_s = settings.timeout / 1000
    return redis.Redis.from_url(
        settings.url or DEFAULT_URL,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        **{key: value for key, value in options.items() if value is not None},
    )


@contextmanager
def translated() -> Iterator[None]:
    """Names the failures of redis-py that waiting may mend.

    Raises:
        StoreUnavailable: If Redis did not answer, is loading, is read-only, or is out of memory.
        AccessDenied: If the user lacks a permission.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailable(f"Redis did not answer: {error}") from error
    except redis.ResponseError as error:
        text = str(error)
        if isinstance(error, _PASSING) or any(code in text for code in _PASSING_CODES):
            raise StoreUnavailable(f"Redis cannot take the command now: {text}") from error
        if isinstance(error, redis.exceptions.NoPermissionError) or _DENIED_IN_SCRIPT in text:
            raise AccessDenied(f"the Redis user may not do all that it must, see docs/redis.md: {text}") from error
        raise
