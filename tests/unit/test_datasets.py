"""Readers of data sets on small folders made by hand."""

import gzip
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.datasets.block import to_columns
from services.datasets.dataset import Dataset
from services.datasets.errors import DatasetError
from services.datasets.kuairand import PROFILE, VIDEO
from services.datasets.make_slice import make_slice
from services.datasets.reader import open_dataset, open_file
from services.settings import load_settings
from trainer.example import Coded, Columns, check_example, examples_to_columns
from trainer.json_value import MISSING

OUTCOMES = {"is_click", "long_view", "is_like", "play_time_ms", "click", "like", "labels", "outcomes"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DOLMEN_")]:
        monkeypatch.delenv(name)


def impressions(**columns: list[object]) -> dict[str, list[object]]:
    """Six rows of three users: two of user 7 at one millisecond, with a row of user 8 between them."""
    return {
        "user_id": [7, 8, 7, 9, 7, 8],
        "video_id": [1, 2, 3, 99, 1, 2],
        "time_ms": [2000, 2000, 2000, 1000, 3000, 3000],
        "tab": [1, 2, 1, 0, 4, 1],
        "author_id": [10, 20, 30, 990, 10, 20],
        "tag": ["39", "12,65", "unknown", "8", "39", "12,65"],
        "duration_ms": [5000, 6000, 7000, 8000, 5000, 6000],
        "play_time_ms": [100, 0, 300, 400, 500, 600],
        "is_click": [1, 0, 1, 0, 1, 0],
        "long_view": [0, 0, 1, 0, 0, 1],
        "is_like": [0, 0, 0, 0, 1, 0],
        "is_rand": [0, 0, 0, 0, 0, 0],
        **columns,
    }


def write_kuairand(folder: Path, **columns: list[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(impressions(**columns)), folder / "impressions.parquet")
    users: dict[str, list[object]] = {"user_id": [8, 7], **{name: [1, 2] for name in PROFILE}}
    users |= {"user_active_degree": ["low", "high"], "onehot_feat4": [3.0, None], "is_live_streamer": [-124, 1]}
    pq.write_table(pa.table(users), folder / "users.parquet")
    videos: dict[str, list[object]] = {"video_id": [1, 2, 3], **{name: ["a", "b", "c"] for name in VIDEO}}
    videos |= {"music_id": [9_164_210_529, 5, 6], "music_type": [9.0, None, 4.0]}
    pq.write_table(pa.table(videos), folder / "videos.parquet")
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_kuairand(tmp_path / "kuairand-pure-0425-0430")
    for name in ("ml-latest-small", "movietweetings-100k"):
        folder = tmp_path / name
        folder.mkdir()
        ratings = {"user_id": [1, 2, 1], "item_id": [5, 6, 7], "rating": [4.0, 3.5, 8.0], "timestamp": [30, 10, 20]}
        pq.write_table(pa.table(ratings), folder / "ratings.parquet")
        movies = {
            "item_id": [5, 6],
            "title": ["Toy Story (1995)", "No Year"],
            "genres": ["Comedy|Drama", "(no genres listed)"],
        }
        pq.write_table(pa.table(movies), folder / "movies.parquet")
    return tmp_path


def same(one: Columns, two: Columns) -> None:
    np.testing.assert_array_equal(one.sizes, two.sizes)
    np.testing.assert_array_equal(one.ts, two.ts)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.weights, two.weights)
    assert one.values.keys() == two.values.keys()
    for source in one.values:
        left, right = plain(one.values[source]), plain(two.values[source])
        assert left == right, source
        assert [type(value) for value in left] == [type(value) for value in right], source


def plain(column: object) -> list[object]:
    values = column.tolist() if isinstance(column, np.ndarray | Coded) else list(column)  # type: ignore[call-overload]
    return [MISSING if isinstance(value, float) and math.isnan(value) else value for value in values]


def sources_of(dataset: Dataset) -> list[str]:
    return sorted({source for block in dataset.blocks() for source in block.values})


def test_rows_of_one_user_at_one_millisecond_are_one_list_in_event_time_order(data_dir: Path) -> None:
    messages = list(open_dataset("kuairand", data_dir=data_dir).messages())
    assert [(m["ts"], m["user"]["id"], [i["id"] for i in m["items"]]) for m in messages] == [
        (1000, 9, [99]),
        (2000, 7, [1, 3]),
        (2000, 8, [2]),
        (3000, 7, [1]),
        (3000, 8, [2]),
    ]


def test_a_kuairand_message_has_labels_outcomes_and_no_absent_values(data_dir: Path) -> None:
    unknown, pair, *_ = open_dataset("kuairand", data_dir=data_dir).messages()
    assert unknown["user"] == {"id": 9}
    assert unknown["context"] == {"tab": 0}
    assert unknown["items"] == [
        {
            "id": 99,
            "author_id": 990,
            "tag": [8],
            "first_tag": 8,
            "duration_ms": 8000,
            "labels": {"click": 0, "long_view": 0, "like": 0},
            "outcomes": {"play_time_ms": 400},
        }
    ]
    first, second = pair["items"]
    assert pair["user"]["user_active_degree"] == "high"
    assert "onehot_feat4" not in pair["user"]
    assert first["music_type"] == 9
    assert type(first["music_type"]) is int
    assert "tag" not in second
    assert second["labels"] == {"click": 1, "long_view": 1, "like": 0}


def test_a_negative_profile_number_is_absent(data_dir: Path) -> None:
    users = {m["user"]["id"]: m["user"] for m in open_dataset("kuairand", data_dir=data_dir).messages()}
    assert "is_live_streamer" not in users[8]
    assert users[7]["is_live_streamer"] == 1


@pytest.mark.parametrize("name", ["kuairand", "movielens", "movietweetings"])
def test_every_message_is_a_valid_example(data_dir: Path, name: str) -> None:
    for message in open_dataset(name, data_dir=data_dir).messages():
        check_example(message, ["click"])


@pytest.mark.parametrize("name", ["kuairand", "movielens", "movietweetings"])
@pytest.mark.parametrize("chunk_lists", [1, 2, 100])
def test_columns_equal_those_of_the_messages(data_dir: Path, name: str, chunk_lists: int) -> None:
    dataset = open_dataset(name, data_dir=data_dir)
    sources = [*sources_of(dataset), "item.unheard_of", "user.unheard_of", "time.hour"]
    tasks = ["click", "unheard_of"]
    messages = list(dataset.messages())
    start = 0
    for columns in dataset.columns(sources, tasks, chunk_lists):
        same(columns, examples_to_columns(messages[start : start + chunk_lists], sources, tasks))
        start += chunk_lists
    assert start >= len(messages) > 0


def test_columns_of_the_shipped_slice_equal_those_of_its_messages() -> None:
    dataset = open_dataset("kuairand", limit=3000)
    sources = sources_of(dataset)
    messages = list(dataset.messages())
    (columns,) = dataset.columns(sources, ["click", "long_view", "like"])
    same(columns, examples_to_columns(messages, sources, ["click", "long_view", "like"]))


def test_what_came_after_an_impression_is_no_source_of_features() -> None:
    for source in sources_of(open_dataset("kuairand", limit=10)):
        assert not OUTCOMES & set(source.split(".")), source


def test_the_shipped_slice_is_small_and_has_its_licence_beside_it() -> None:
    import services.datasets.reader as reader

    folder = Path(reader.__file__).parent / "slices" / "kuairand"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_000_000
    notice = (folder / "README.md").read_text()
    assert "CC BY-SA 4.0" in notice
    assert "10.1145/3511808.3557624" in notice
    dataset = open_dataset("kuairand")
    assert dataset.examples == pq.read_metadata(folder / "impressions.parquet").num_rows
    assert dataset.origin == "the slice that ships with Dolmen"


def test_the_folder_of_dolmen_data_comes_before_the_slice(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLMEN_DATA", str(data_dir))
    dataset = open_dataset("kuairand")
    assert dataset.examples == 6
    assert dataset.origin == str(data_dir / "kuairand-pure-0425-0430")


@pytest.mark.parametrize(("limit", "examples"), [(1, 1), (2, 1), (3, 3), (4, 4), (100, 6)])
def test_a_limit_never_splits_a_list_and_is_never_exceeded(data_dir: Path, limit: int, examples: int) -> None:
    dataset = open_dataset("kuairand", limit=limit, data_dir=data_dir)
    assert dataset.examples == examples
    assert sum(len(message["items"]) for message in dataset.messages()) == examples


@pytest.mark.parametrize(
    ("file", "column"),
    [("impressions", "is_click"), ("impressions", "tab"), ("users", "onehot_feat7"), ("videos", "music_id")],
)
def test_a_missing_column_is_named_with_its_file(data_dir: Path, file: str, column: str) -> None:
    path = data_dir / "kuairand-pure-0425-0430" / f"{file}.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(DatasetError, match=rf"{file}\.parquet: there is no column {column}"):
        open_dataset("kuairand", data_dir=data_dir)


def test_a_missing_file_is_named(data_dir: Path) -> None:
    (data_dir / "kuairand-pure-0425-0430" / "users.parquet").unlink()
    with pytest.raises(DatasetError, match=r"users\.parquet: there is no such file"):
        open_dataset("kuairand", data_dir=data_dir)


def test_a_damaged_file_is_named(data_dir: Path) -> None:
    (data_dir / "kuairand-pure-0425-0430" / "videos.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"videos\.parquet: cannot be read as parquet"):
        open_dataset("kuairand", data_dir=data_dir)


@pytest.mark.parametrize(
    ("column", "values"),
    [("is_click", [1, 0, 7, 0, 1, 0]), ("time_ms", ["a"] * 6), ("user_id", [1, None, 2, 3, 4, 5])],
)
def test_a_column_of_the_wrong_kind_is_named(tmp_path: Path, column: str, values: list[object]) -> None:
    write_kuairand(tmp_path / "kuairand-pure-0425-0430", **{column: values})
    with pytest.raises(DatasetError, match=rf"impressions\.parquet: column {column}"):
        open_dataset("kuairand", data_dir=tmp_path)


def test_absent_data_name_the_download_its_licence_and_the_folder() -> None:
    with pytest.raises(DatasetError, match=r"(?s)ml-latest-small/.*https://files\.grouplens.*Licence.*DOLMEN_DATA"):
        open_dataset("movielens")


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"no data set 'netflix'.*kuairand, movielens"):
        open_dataset("netflix")


def test_a_rating_of_four_is_a_click_in_movielens_and_of_eight_in_movietweetings(data_dir: Path) -> None:
    clicks = {}
    for name in ("movielens", "movietweetings"):
        messages = list(open_dataset(name, data_dir=data_dir).messages())
        assert [m["ts"] for m in messages] == [10_000, 20_000, 30_000]
        clicks[name] = [m["items"][0]["labels"]["click"] for m in messages]
    assert clicks == {"movielens": [0, 1, 1], "movietweetings": [0, 1, 0]}


def test_movies_carry_genres_and_year_where_known(data_dir: Path) -> None:
    no_genres, no_movie, movie = (m["items"][0] for m in open_dataset("movielens", data_dir=data_dir).messages())
    assert (movie["genres"], movie["year"]) == (["Comedy", "Drama"], 1995)
    assert {"genres", "year"}.isdisjoint(no_genres)
    assert {"genres", "year"}.isdisjoint(no_movie)


def test_the_published_files_of_the_ratings_are_read_as_they_are(tmp_path: Path) -> None:
    movielens, tweets = tmp_path / "ml-latest-small", tmp_path / "movietweetings-100k"
    for folder in (movielens, tweets):
        folder.mkdir()
    (movielens / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,5,4.5,30\n")
    (movielens / "movies.csv").write_text('movieId,title,genres\n5,"American President, The (1995)",Comedy|Drama\n')
    (tweets / "ratings.dat").write_text("1::5::7::30\n")
    (tweets / "movies.dat").write_text('5::The "Kid" (1921)::Comedy|Drama\n')
    for name, year, click in (("movielens", 1995, 1), ("movietweetings", 1921, 0)):
        (message,) = open_dataset(name, data_dir=tmp_path).messages()
        assert message["items"][0]["genres"] == ["Comedy", "Drama"]
        assert message["items"][0]["year"] == year
        assert message["items"][0]["labels"] == {"click": click}


def test_labels_that_no_task_names_are_refused_with_those_there_are(data_dir: Path) -> None:
    dataset = open_dataset("kuairand", data_dir=data_dir)
    with pytest.raises(DatasetError, match=r"no label purchase.*click, long_view, like"):
        list(dataset.columns(["user.id"], ["purchase"]))


def test_a_null_label_is_absent(tmp_path: Path) -> None:
    write_kuairand(tmp_path / "kuairand-pure-0425-0430", long_view=[None, 0, 1, 0, 0, 1])
    dataset = open_dataset("kuairand", data_dir=tmp_path)
    messages = list(dataset.messages())
    assert messages[1]["items"][0]["labels"] == {"click": 1, "like": 0}
    (block,) = dataset.blocks()
    same(to_columns(block, [], ["long_view"]), examples_to_columns(messages, [], ["long_view"]))


def test_a_folder_without_rows_is_an_empty_data_set(tmp_path: Path) -> None:
    folder = write_kuairand(tmp_path / "kuairand-pure-0425-0430")
    path = folder / "impressions.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    dataset = open_dataset("kuairand", data_dir=tmp_path)
    assert dataset.examples == 0
    assert list(dataset.messages()) == []


def test_a_slice_holds_whole_lists_and_what_occurs_in_them(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "other" / "kuairand-pure-0425-0430"
    out.mkdir(parents=True)
    make_slice(data_dir / "kuairand-pure-0425-0430", out, 3)
    assert list(open_dataset("kuairand", data_dir=out.parent).messages()) == list(
        open_dataset("kuairand", data_dir=data_dir, limit=3).messages()
    )
    assert pq.read_table(out / "users.parquet")["user_id"].to_pylist() == [7]
    assert pq.read_table(out / "videos.parquet")["video_id"].to_pylist() == [1, 3]


@pytest.mark.parametrize("name", ["kuairand", "movielens", "movietweetings", "synthetic"])
def test_a_shipped_configuration_fits_its_data_set(data_dir: Path, name: str) -> None:
    import services.datasets.reader as reader

    settings = load_settings(Path(reader.__file__).parent / f"{name}.toml")
    dataset = (
        open_dataset(name, limit=20, users=10, items=100)
        if name == "synthetic"
        else open_dataset(name, data_dir=data_dir)
    )
    sources = {f.source for f in settings.features if f.source is not None and not f.source.startswith("time.")}
    assert sources <= set(sources_of(dataset))
    assert {task.name for task in settings.tasks} <= set(dataset.tasks)


@pytest.mark.parametrize("zipped", [False, True])
def test_lines_of_a_file_come_as_they_are_blank_ones_too(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("events.ndjson.gz" if zipped else "events.ndjson")
    data = b'{"ts": 1}\r\n\nnot json\n{"ts": 2}'
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert list(open_file(path)) == [b'{"ts": 1}', b"", b"not json", b'{"ts": 2}']


def test_a_cut_off_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(gzip.compress(os.urandom(1000) + b"\n")[:-200])

    def read() -> Iterator[bytes]:
        yield from open_file(path)

    with pytest.raises(DatasetError, match=r"events\.ndjson\.gz: cannot be read"):
        list(read())
