"""How Kafka clients are told to connect."""

import pytest
from pydantic import SecretStr

from trainer.connection import kafka_options
from trainer.settings import EventsSettings, TopicSettings
from trainer.source import Record, Source


def test_the_default_server_is_taken_without_any() -> None:
    assert kafka_options(EventsSettings())["bootstrap_servers"] == ["127.0.0.1:9092"]


def test_several_servers_are_split() -> None:
    assert kafka_options(EventsSettings(bootstrap_servers="a:1, b:2,"))["bootstrap_servers"] == ["a:1", "b:2"]


def test_unset_security_keys_are_left_to_the_client() -> None:
    options = kafka_options(EventsSettings())
    assert options["security_protocol"] == "PLAINTEXT"
    assert not [key for key in options if key.startswith("sasl_") or key.endswith("file")]


def test_security_keys_are_passed_with_the_password_in_clear() -> None:
    secret = "p"  # noqa: S105
    options = kafka_options(
        EventsSettings(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_plain_username="u",
            sasl_plain_password=SecretStr(secret),
            ssl_cafile="/ca.pem",
            ssl_check_hostname=False,
        )
    )
    assert options["sasl_plain_password"] == secret
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["ssl_cafile"] == "/ca.pem"
    assert options["ssl_check_hostname"] is False


def test_a_source_connects_to_nothing_before_it_is_opened() -> None:
    source = Source(EventsSettings(bootstrap_servers="127.0.0.1:1", topics=TopicSettings()), "2026-01-31T12:00:00Z")
    source.dead_letter(Record("t", 0, 0, 0, None, b"x"), "json", "no matter")
    with pytest.raises(RuntimeError, match="open"):
        source.poll(1, 1)
    source.close()
    source.close()


def test_a_start_that_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        Source(EventsSettings(), "yesterday")
