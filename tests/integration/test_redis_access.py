"""A store over TLS, by users that may do no more than the documentation says they need."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import ValidationError

from embedding_store.bootstrap import bootstrap
from embedding_store.dump import load_dump, read_dump
from embedding_store.errors import AccessDenied, StoreUnavailable
from embedding_store.inspection import describe, verify
from embedding_store.keys import Keys
from embedding_store.log import CommitLog
from embedding_store.owner import Owner
from embedding_store.redis_client import connect
from embedding_store.removal import drop_table
from embedding_store.replica import Replica
from embedding_store.rows import fetch_rows, read_sizes
from embedding_store.settings import StoreSettings
from embedding_store.shard import Shard
from services.doctor import check_redis
from services.local.servers import Server
from services.ranker.metrics import RankerMetrics
from services.ranker.stored_features import FeatureLimits, StoredFeatures
from tests.integration.test_owner import change, wait_for
from tests.servers import start_redis
from tests.shards import SEED, TABLES, ids_of, stored

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
SECRETS = {"dolmen": "trainer-secret", "dolmen-ranker": "ranker-secret"}


def documented_users() -> str:
    block = re.search(r"```acl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own, a certificate for the server, one for clients, and another authority."""
    place = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True, timeout=60)

    for name in ("authority", "other"):
        openssl("req", "-x509", *KEY, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt",
                "-days", "2", "-subj", f"/CN={name}")  # fmt: skip
    for name in ("server", "client"):
        openssl("req", *KEY, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        (place / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "authority.crt", "-CAkey", "authority.key",
                "-CAcreateserial", "-out", f"{name}.crt", "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip
    return place


@pytest.fixture
def server(tmp_path: Path, certificates: Path) -> Iterator[Server]:
    acl = tmp_path / "users.acl"
    acl.write_text(documented_users())
    tls = {
        "ssl_ca_certs": str(certificates / "authority.crt"),
        "ssl_certfile": str(certificates / "client.crt"),
        "ssl_keyfile": str(certificates / "client.key"),
    }
    options = ("--tls-cert-file", str(certificates / "server.crt"), "--tls-key-file", str(certificates / "server.key"),
               "--tls-ca-cert-file", str(certificates / "authority.crt"), "--tls-auth-clients", "yes",
               "--aclfile", str(acl))  # fmt: skip
    with start_redis(tmp_path / "redis", *options, tls=tls) as running:
        yield running


def settings_of(server: Server, certificates: Path, user: str, **changes: object) -> StoreSettings:
    return StoreSettings.model_validate(
        {
            "url": server.url,
            "username": user,
            "password": SECRETS[user],
            "ssl_ca_certs": str(certificates / "authority.crt"),
            "ssl_certfile": str(certificates / "client.crt"),
            "ssl_keyfile": str(certificates / "client.key"),
            "fold_interval": "20ms",
            "timeout": "5s",
            **changes,
        }
    )


def log_by(settings: StoreSettings) -> CommitLog:
    return CommitLog(connect(settings), Keys(settings.prefix))


class Nobody:
    def restarted(self, snapshot: object) -> None: ...

    def applied(self, commit_id: object, commit: object) -> None: ...


def test_trainer_store_commands_and_ranker_need_no_more_than_is_documented(server, certificates, tmp_path):
    settings = settings_of(server, certificates, "dolmen", log_bytes="1MiB")
    log = log_by(settings)
    owner = Owner(settings)
    owner.open()
    shard = Shard(TABLES, SEED)
    for round_ in range(12):
        owner.commit(change(shard, round_, ballast=200_000))
    wait_for(lambda: owner.unfolded_bytes == 0, "folding")
    assert log.client.xlen(log.keys.log) < 12
    written = stored(log)

    reader = settings_of(server, certificates, "dolmen-ranker")
    reading = log_by(reader)
    assert bootstrap(reading, learning=False).id == owner.head
    found = fetch_rows(reading, {"wide": ids_of(shard, 0)}, read_sizes(reading))
    assert None not in found["wide"]
    replica = Replica(reader, Nobody())
    replica.start()
    owner.commit(change(shard, 12))
    wait_for(lambda: replica.snapshot is not None and replica.snapshot.id == owner.head, "following")
    replica.stop()
    features = StoredFeatures(connect(reader), reader.prefix, FeatureLimits(fresh_s=0.0), RankerMetrics())
    features.put("items", "é", {"genre": "x"})
    features.put("items", "7", {"genre": "y"})
    features.put("items", "7", {})
    assert features.complete_lists([{"user": {}, "items": [{"id": 7}, {"id": "é"}]}]) == [
        {"user": {}, "items": [{"id": 7}, {"genre": "x", "id": "é"}]}
    ]

    assert all(check.status != "fail" for check in check_redis(settings))
    assert all(check.status != "fail" for check in check_redis(reader))
    owner.close()
    assert describe(log)["tables"]["wide"]["bytes"] > 0
    assert verify(log).faults == []
    drop_table(log, "narrow")
    (tmp_path / "dump").write_bytes(written)
    other = log_by(settings.model_copy(update={"prefix": "dolmen:other"}))
    load_dump(other, read_dump(tmp_path / "dump"))
    assert stored(other) == written
    for one in (log, reading, other):
        one.client.close()


def test_a_ranker_can_change_nothing_but_its_lease_and_the_stored_features(server, certificates):
    settings = settings_of(server, certificates, "dolmen")
    owner = Owner(settings)
    owner.open()
    owner.commit(change(Shard(TABLES, SEED), 0))
    reading = log_by(settings_of(server, certificates, "dolmen-ranker"))
    keys = reading.keys
    for command in (
        lambda: reading.client.hset(keys.state, "head", "9-9"),
        lambda: reading.client.hset(keys.rows("wide", 0), "cold", "x"),
        lambda: reading.client.xadd(keys.log, {"a": "b"}),
        lambda: reading.client.delete(keys.log),
        lambda: reading.client.config_set("maxmemory", 1),
        lambda: reading.client.flushall(),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            command()
    with pytest.raises(AccessDenied, match=r"docs/redis\.md"):
        reading.raise_epoch()
    assert reading.state().epoch is not None
    owner.close()
    reading.client.close()


def test_a_stranger_to_the_certificate_or_the_password_is_told_why(server, certificates):
    for changes, reason in (
        ({"ssl_ca_certs": str(certificates / "other.crt")}, "certificate verify failed"),
        ({"ssl_certfile": None, "ssl_keyfile": None}, "did not answer"),
        ({"password": "wrong"}, "password"),
    ):
        log = log_by(settings_of(server, certificates, "dolmen", **changes))
        with pytest.raises(StoreUnavailable, match=reason):
            log.state()
        log.client.close()


def test_certificates_without_tls_are_a_mistake_in_the_configuration():
    with pytest.raises(ValidationError, match="not encrypted"):
        StoreSettings(url="redis://127.0.0.1:6379/0", ssl_ca_certs="authority.crt")
