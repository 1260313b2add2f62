"""``dolmen.toml``: what is sound, and how each fault names its key."""

import re
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from embedding_store.settings import TableSettings, format_duration, parse_bytes, parse_duration_ms
from services.settings import SHIPPED, ConfigError, load_settings
from tests.definitions import feature, small_definition
from trainer.definition import Definition, define
from trainer.settings import ModelSettings, TaskSettings, parse_rfc3339_ms

GOOD = """
[store]
url = "redis://localhost:1/2"
[[tables]]
name = "video"
dim = 16
expire_after = "30d"
[[features]]
name = "video"
source = "item.id"
kind = "id"
[[features]]
name = "tab"
source = "context.tab"
kind = "id"
[[features]]
name = "tab_x_video"
kind = "cross"
inputs = ["tab", "video"]
[[tasks]]
name = "click"
[trainer]
commit_interval = "1.5s"
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """Settings of whoever runs the tests do not reach them."""
    import os

    for name in [name for name in os.environ if name.startswith("DOLMEN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path):
    def loading(text: str = GOOD):
        path = tmp_path / "dolmen.toml"
        path.write_text(text)
        return load_settings(path)

    return loading


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_sound_file_gives_its_settings_and_defaults_for_the_rest(load):
    settings = load()
    assert settings.store.url == "redis://localhost:1/2"
    assert settings.trainer.commit_interval == 1500
    assert settings.store.lease == 30_000
    definition = settings.definition()
    assert [(t.name, t.dim, t.expire_after) for t in definition.tables] == [
        ("tab", 8, None),
        ("tab_x_video", 8, None),
        ("video", 16, 30 * 86_400_000),
    ]


@pytest.mark.parametrize("dataset", SHIPPED)
def test_every_shipped_configuration_is_sound(dataset):
    definition = load_settings(dataset=dataset).definition()
    assert definition.features
    assert Definition.from_json(definition.to_json()) == definition


def test_every_file_that_is_shipped_is_sound_and_has_its_tasks_in_its_score():
    folder = Path(str(resources.files("services.datasets")))
    assert {path.stem for path in folder.glob("*.toml")} == {*SHIPPED, "kuairand_tasks"}
    for path in folder.glob("*.toml"):
        definition = load_settings(path).definition()
        assert Definition.from_json(definition.to_json()) == definition
    several = load_settings(folder / "kuairand_tasks.toml").definition()
    assert [task.name for task in several.tasks] == ["click", "long_view", "like"]
    assert several.model.score == "0.7*click + 0.3*long_view"
    alone = load_settings(folder / "kuairand.toml").definition()
    assert (several.features, several.statistics) == (alone.features, alone.statistics)


BROKEN = {
    "an unknown key": (changed("dim = 16", "dims = 16"), r"tables\[0\]\.dims \(name 'video'\): there is no such key"),
    "a budget below the filters": (
        changed("[trainer]", '[trainer]\nmemory_budget = "1MiB"'),
        r"trainer\.memory_budget: 1048576 bytes are too few.*half of 2097152 bytes",
    ),
    "an unknown section": (GOOD + "[stores]\n", "stores: there is no such key"),
    "a bad duration": (changed('"30d"', '"30 days"'), r"tables\[0\]\.expire_after.*'30 days' is no duration.*such as"),
    "a duration without a unit": (changed('"1.5s"', "250"), r"trainer\.commit_interval: 250 is no duration"),
    "a name given twice": (changed('name = "tab"', 'name = "video"'), "features: the name 'video' is given twice"),
    "a missing source": (changed('source = "item.id"\n', ""), r"features\[0\].*: `source` is missing"),
    "a source from nowhere": (
        changed('"item.id"', '"video.id"'),
        r"features\[0\].*'video.id' must begin with user\.",
    ),
    "a source of the future": (changed('"item.id"', '"item.labels.click"'), r"features\[0\].*so it can be no feature"),
    "an unknown time": (changed('"item.id"', '"time.minute"'), r"features\[0\].*'time.minute' is unknown"),
    "an unknown input of a cross": (
        changed('["tab", "video"]', '["tab", "user"]'),
        r"features\.tab_x_video\.inputs: there is no feature 'user'",
    ),
    "a cross of one": (changed('["tab", "video"]', '["tab"]'), r"features\[2\].*`inputs` must name at least two"),
    "a cross of a cross": (
        changed('["tab", "video"]', '["tab", "tab_x_video"]'),
        r"features\.tab_x_video\.inputs: 'tab_x_video' must be of kind id",
    ),
    "a wrong type": (changed("dim = 16", 'dim = "wide"'), r"tables\[0\]\.dim \(name 'video'\): .*valid integer"),
    "an unknown kind": (changed('"context.tab"\nkind = "id"', '"context.tab"\nkind = "idd"'), r"features\[1\]\.kind"),
    "a number out of range": (changed("dim = 16", "dim = -1"), r"tables\[0\]\.dim.*greater than or equal to 0"),
    "no vector": (changed("dim = 16", "dim = 0"), r"tables\.video\.dim: must be at least 1"),
    "a port out of range": (GOOD + "[ranker]\nport = 70000\n", r"ranker\.port: .*less than or equal to 65535"),
    "no tasks": (changed('[[tasks]]\nname = "click"\n', ""), "tasks: at least one is needed"),
    "a table that nobody uses": (
        GOOD + '[[tables]]\nname = "music"\n',
        r"tables\.music: no feature uses this table",
    ),
    "an unknown optimizer": (changed("dim = 16", 'dim = 16\noptimizer = "sgd"'), r"tables\[0\]\.optimizer"),
    "a score of no task": (GOOD + '[model]\nscore = "buy"\n', r"model\.score: there is no task 'buy'"),
    "a formula with an unknown task": (
        GOOD + '[model]\nscore = "0.7*click + 0.3*buy"\n',
        r"model\.score: there is no task 'buy'; there ",
    ),
    "a formula that divides": (GOOD + '[model]\nscore = "click / 2"\n', r"model\.score: 'click / 2' cannot stand in"),
    "a bad start": (GOOD + 'start = "yesterday"\n', r"trainer\.start: 'yesterday' must be \"earliest\", \"latest\" or"),
    "a start without a zone": (GOOD + 'start = "2026-01-31T12:00:00"\n', r"trainer\.start: .*RFC 3339"),
    "batches that contradict": (GOOD + "batch_size = 99\nmax_batch_size = 9\n", r"trainer: max_batch_size \(9\)"),
    "a bad size": (changed("[store]", '[store]\nlog_bytes = "lots"'), r"store\.log_bytes: 'lots' is no size"),
    "buckets out of order": (
        changed('"item.id"\nkind = "id"', '"item.id"\nkind = "number"\nbuckets = [3, 1]'),
        r"features\[0\].*`buckets` must be edges in rising order",
    ),
    "buckets of an id": (changed('"item.id"', '"item.id"\nbuckets = [1]'), r"`buckets` goes with kind number only"),
    "a bad prefix": (changed("[store]", '[store]\nprefix = "a b"'), r"store\.prefix"),
    "a hidden layer of nothing": (GOOD + "[model]\nhidden = [64, 0]\n", r"model\.hidden: every width must lie"),
}


@pytest.mark.parametrize(("text", "line"), BROKEN.values(), ids=BROKEN)
def test_a_fault_names_its_key(load, text, line):
    with pytest.raises(ConfigError, match=line) as caught:
        load(text)
    assert all("dolmen.toml: " in one for one in str(caught.value).splitlines())


def test_all_faults_are_told_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace("dim = 16", "dim = -1").replace('"1.5s"', '"soon"') + "[metrics]\nport = -1\n")
    assert len(str(caught.value).splitlines()) == 3


def test_all_cross_field_faults_are_told_at_once(load):
    text = GOOD.replace('["tab", "video"]', '["tab", "user"]').replace('[[tasks]]\nname = "click"\n', "")
    with pytest.raises(ConfigError) as caught:
        load(text + '[model]\nscore = "buy"\n')
    assert len(str(caught.value).splitlines()) == 3


def test_what_is_no_toml_is_told_with_its_place(load):
    with pytest.raises(ConfigError, match=r"dolmen\.toml: is not valid TOML: .*line 2"):
        load("[store]\nurl = \n")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'no.toml'}: cannot be read: No such file")):
        load_settings(tmp_path / "no.toml")


def test_an_unknown_data_set_is_told_with_those_that_there_are():
    with pytest.raises(ConfigError, match="there is no 'netflix'; there are kuairand, movielens, "):
        load_settings(dataset="netflix")


def test_a_file_without_features_takes_those_that_are_shipped(load):
    settings = load("[ranker]\nport = 0\n")
    assert settings.ranker.port == 0
    assert settings.definition() == load_settings().definition()


def test_the_file_that_the_environment_names_is_read(tmp_path, monkeypatch):
    path = tmp_path / "other.toml"
    path.write_text(GOOD)
    monkeypatch.setenv("DOLMEN_CONFIG", str(path))
    assert load_settings().store.url == "redis://localhost:1/2"


def test_the_environment_wins_over_the_file_key_by_key(load, monkeypatch):
    monkeypatch.setenv("DOLMEN_STORE__URL", "redis://other:9/0")
    monkeypatch.setenv("DOLMEN_TRAINER__BATCH_SIZE", "32")
    monkeypatch.setenv("DOLMEN_EVENTS__ON_LOST_LOG", "latest")
    settings = load(changed("[store]", '[store]\nprefix = "mine"'))
    assert (settings.store.url, settings.store.prefix) == ("redis://other:9/0", "mine")
    assert (settings.trainer.batch_size, settings.trainer.commit_interval) == (32, 1500)
    assert settings.events.on_lost_log == "latest"


def test_a_list_is_overridden_whole_as_json(load, monkeypatch):
    monkeypatch.setenv("DOLMEN_TASKS", '[{"name": "like"}, {"name": "buy"}]')
    assert [task.name for task in load().tasks] == ["like", "buy"]


def test_a_bad_value_of_the_environment_names_its_key(load, monkeypatch):
    monkeypatch.setenv("DOLMEN_RANKER__PORT", "eighty")
    with pytest.raises(ConfigError, match=r"ranker\.port"):
        load()


def test_secrets_come_from_the_environment_and_print_masked(load, monkeypatch):
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD", "hunter2")
    settings = load()
    assert settings.store.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_secrets_come_from_files_that_the_environment_names(load, monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("DOLMEN_EVENTS__SASL_PLAIN_PASSWORD_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("DOLMEN_STORE__USERNAME", "me")
    settings = load()
    assert settings.store.password.get_secret_value() == "hunter2"
    assert settings.events.sasl_plain_password.get_secret_value() == "hunter2"
    assert settings.store.username == "me"
    assert "hunter2" not in repr(settings)


def test_a_secrets_file_that_cannot_be_read_is_named(load, monkeypatch):
    monkeypatch.setenv("DOLMEN_STORE__PASSWORD_FILE", "/nowhere/secret")
    with pytest.raises(ConfigError, match="/nowhere/secret: a secret's file cannot be read"):
        load()


# Values


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("0s", 0),
        ("1.5s", 1500),
        ("2m", 120_000),
        ("2min", 120_000),
        ("1h", 3_600_000),
        (" 1 d ", 86_400_000),
    ],
)
def test_durations_are_read(text, ms):
    assert parse_duration_ms(text) == ms
    assert parse_duration_ms(format_duration(ms)) == ms


@pytest.mark.parametrize("value", ["", "5", "s", "-1s", "1 s 2", "1w", 5, None, 1.5, True, "none", "1e3s"])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration_ms(value)


def test_no_expiry_is_none():
    assert TableSettings(name="t", expire_after="none").expire_after is None
    assert TableSettings(name="t", expire_after="none").model_dump(mode="json")["expire_after"] == "none"


@pytest.mark.parametrize(
    ("value", "size"), [("64MiB", 64 << 20), ("1 kb", 1000), (7, 7), ("7", 7), ("0.5GiB", 1 << 29)]
)
def test_sizes_are_read(value, size):
    assert parse_bytes(value) == size


@pytest.mark.parametrize("value", ["", "1 pound", -1, True, None, 1.5])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(value)


def test_times_are_read_with_their_offset():
    expected = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00.000Z"):
        assert parse_rfc3339_ms(text) == expected


# Definitions


def test_a_definition_comes_back_from_its_json_and_equal_ones_have_equal_bytes():
    definition = small_definition()
    again = Definition.from_json(definition.to_json())
    assert again == definition
    assert again.to_json() == definition.to_json()
    assert again.fingerprint == definition.fingerprint


def test_any_change_of_a_definition_changes_its_fingerprint():
    definitions = [
        small_definition(),
        small_definition(seed=4),
        small_definition(hidden=(7, 6)),
        small_definition(tasks=["click"]),
        small_definition(features=small_definition().features[:-1]),
        small_definition(tables=[TableSettings(name="user", dim=5)]),
    ]
    assert len({definition.fingerprint for definition in definitions}) == len(definitions)


def test_the_order_of_tables_in_the_file_does_not_matter():
    tables = (TableSettings(name="b", dim=2), TableSettings(name="a", dim=3))
    features = (feature("b", source="item.b"), feature("a", source="item.a"))
    args = (features, (TaskSettings(name="click"),), ModelSettings(), 1)
    assert define(tables, *args) == define(tables[::-1], *args)


def test_an_item_may_have_a_feature_whose_name_begins_as_a_label_does():
    assert feature("x", source="item.weight_kg").source == "item.weight_kg"
    for source in ("item.weight", "item.outcomes.play", "item.sampled.click"):
        with pytest.raises(ValueError, match="came after the impression"):
            feature("x", source=source)


def test_slices_are_features_or_sources(load):
    slices = 'slices = ["tab", "context.country", "time.hour"]\nslice_values = 5\ncommit_interval'
    trainer = load(changed("commit_interval", slices)).trainer
    assert (trainer.slices, trainer.slice_values) == (("tab", "context.country", "time.hour"), 5)
    with pytest.raises(ConfigError, match=r"trainer\.slices: 'tab_x_video' is a feature of kind cross"):
        load(changed("commit_interval", 'slices = ["tab_x_video"]\ncommit_interval'))
