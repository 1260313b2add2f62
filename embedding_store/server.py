"""What the store asks of its Redis: that it never evicts, and that it keeps small hashes small."""

import logging

import redis

from embedding_store.errors import ServerEvicts
from embedding_store.redis_client import Client, translated

_log = logging.getLogger(__name__)

LISTPACK = {"hash-max-listpack-value": 256, "hash-max-listpack-entries": 512}
"""Options of the server, and the least that they should be: longest row of a small hash, and most rows of one."""


def refuse_eviction(client: Client) -> None:
    """Makes sure that the server throws no key away when its memory is full.

    Raises:
        ServerEvicts: If it would. Where it does not tell, nothing is refused.
        StoreUnavailable: If it did not answer.
    """
    policy = _eviction_policy(client)
    if policy is None:
        _log.warning("Redis does not tell its maxmemory-policy; make sure that it is noeviction: rows must not vanish")
    elif policy != "noeviction":
        raise ServerEvicts(
            f"Redis has maxmemory-policy {policy}: when its memory is full, it would throw rows away. Set it with "
            "CONFIG SET maxmemory-policy noeviction, and in the server's configuration"
        )


def _eviction_policy(client: Client) -> str | None:
    with translated():
        try:
            policy = client.info("memory").get("maxmemory_policy")
            if policy:
                return str(policy)
        except redis.ResponseError as error:
            _pass_on_unless_refused(error)
        try:
            found = client.config_get("maxmemory-policy")
            return next((_text(value) for value in found.values()), None)
        except redis.ResponseError as error:
            _pass_on_unless_refused(error)
    return None


def listpack_limit(client: Client) -> int | None:
    """The longest value that the server keeps in a small hash of one piece, in bytes; None if it does not tell."""
    with translated():
        try:
            found = client.config_get("hash-max-listpack-value")
            return next((int(value) for value in found.values()), None)
        except redis.ResponseError as error:
            _pass_on_unless_refused(error)
    return None


def keep_hashes_small(client: Client) -> None:
    """Raises the server's limits for hashes of one piece, if they are lower and the server lets us.

    Without it everything works; rows of more than 64 bytes take about a third more memory. The option lasts until the
    server restarts.

    Raises:
        StoreUnavailable: If it did not answer.
    """
    with translated():
        try:
            found = {_text(name): int(value) for name, value in client.config_get("hash-max-listpack-*").items()}
            low = {name: least for name, least in LISTPACK.items() if found.get(name, least) < least}
            for name, least in low.items():
                client.config_set(name, least)
                _log.info(
                    "Redis: CONFIG SET %s %d, it was %d; put it into its configuration, too", name, least, found[name]
                )
        except redis.ResponseError as error:
            _pass_on_unless_refused(error)
            _log.info("Redis does not let us see to compact rows (%s); docs/redis.md names the option to set", error)


def _pass_on_unless_refused(error: redis.ResponseError) -> None:
    """Keeps quiet about a command that is forbidden, renamed or unknown."""
    refused = isinstance(error, redis.exceptions.NoPermissionError)
    if not refused and not str(error).lower().startswith(("unknown command", "unknown subcommand", "err unknown")):
        raise error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
