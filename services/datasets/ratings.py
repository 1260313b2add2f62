"""MovieLens and MovieTweetings: ratings of movies, one rating a list."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from services.datasets.block import Block, Values, coded
from services.datasets.dataset import Licence
from services.datasets.errors import DatasetError
from services.datasets.parquet import gather, integers, read_table, rows_of, values
from trainer.example import Coded
from trainer.json_value import MISSING

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_MOVIES = ("item_id", "title", "genres")
_PUBLISHED = {"userId": "user_id", "movieId": "item_id"}


@dataclass(frozen=True, slots=True)
class RatingsKind:
    """What tells one set of ratings from another.

    Attributes:
        title: For people.
        licence: Of the data.
        click_from: The lowest rating that counts as a click.
        download: Where the public file is, and how to lay the folder.
    """

    title: str
    licence: Licence
    click_from: float
    download: str


MOVIELENS = RatingsKind(
    title="MovieLens latest-small, movie ratings",
    licence=Licence(
        "GroupLens licence: research use; redistribution under the same terms; no commercial use without permission",
        "Harper & Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015, doi 10.1145/2827872",
    ),
    click_from=4.0,
    download="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip; unpack it there as it is "
    "(ratings.csv and movies.csv are read; so are ratings.parquet and movies.parquet)",
)
MOVIETWEETINGS = RatingsKind(
    title="MovieTweetings 100K, movie ratings from tweets",
    licence=Licence("MIT", "Dooms et al., MovieTweetings: a movie rating dataset collected from Twitter, RecSys 2013"),
    click_from=8.0,
    download="https://github.com/sidooms/MovieTweetings, folder snapshots/100K; put its ratings.dat and movies.dat "
    "there (ratings.parquet and movies.parquet are read too)",
)


def read_ratings(folder: Path, kind: RatingsKind) -> Block:
    """The ratings of a folder in event-time order.

    Raises:
        DatasetError: Naming the file and the column.
    """
    ratings, path = _table(folder, "ratings", _RATINGS)
    movies, movies_path = _table(folder, "movies", _MOVIES)
    seconds = integers(ratings, "timestamp", path)
    order = np.argsort(seconds, kind="stable")
    movie = integers(ratings, "item_id", path)[order]
    row = rows_of(integers(movies, "item_id", movies_path), movie)
    rating = _numbers(ratings, "rating", path)[order]
    genres, year = _genres(values(movies, "genres", movies_path)), _years(values(movies, "title", movies_path))
    found: dict[str, Values] = {
        "user.id": integers(ratings, "user_id", path)[order],
        "item.id": movie,
        "item.genres": gather(genres, row),
        "item.year": gather(year, row),
    }
    return Block(
        sizes=np.ones(len(order), dtype=np.int64),
        ts=seconds[order] * 1000,
        values=found,
        labels={"click": (rating >= kind.click_from).astype(np.int8)},
        outcomes={"rating": rating},
    )


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> tuple[pa.Table, Path]:
    """The columns from NAME.parquet, or from the publisher's own NAME.csv or NAME.dat."""
    path = folder / f"{name}.parquet"
    source = next((p for p in (path, folder / f"{name}.csv", folder / f"{name}.dat") if p.is_file()), path)
    if source.suffix == ".parquet":
        return read_table(source, columns), source
    try:
        if source.suffix == ".csv":
            table = pyarrow.csv.read_csv(source)
            table = table.rename_columns([_PUBLISHED.get(column, column) for column in table.column_names])
        else:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(source.read_bytes().replace(b"::", b"\t")),
                read_options=pyarrow.csv.ReadOptions(column_names=columns),
                parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            )
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{source}: cannot be read: {error}") from error
    absent = [column for column in columns if column not in table.column_names]
    if absent:
        raise DatasetError(f"{source}: there is no column {', '.join(absent)}")
    return table.select(columns), source


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.float64]:
    try:
        found: NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: column {name} must hold numbers: {error}") from error
    if np.isnan(found).any():
        raise DatasetError(f"{path}: column {name} must have a number in every row")
    return found


def _genres(text: Values) -> Values:
    """``"Comedy|Drama"`` as a list; absent where none is listed."""
    if not isinstance(text, Coded):
        return text
    lists = [[] if t is MISSING else [part for part in t.split("|") if part and part[0] != "("] for t in text.values]
    return Coded(text.codes, coded([genres or MISSING for genres in lists]))


def _years(title: Values) -> Values:
    """The year in ``"Toy Story (1995)"``; absent where there is none."""
    if not isinstance(title, Coded):
        return title
    found = [None if t is MISSING else re.search(r"\((\d{4})\)\s*$", t) for t in title.values]
    return Coded(title.codes, coded([MISSING if match is None else int(match[1]) for match in found]))
