"""Finds and opens data sets: by name, or a file of messages."""

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.datasets.block import Block
from services.datasets.dataset import Dataset, Licence
from services.datasets.errors import DatasetError
from services.datasets.kuairand import LICENCE, TITLE, read_kuairand
from services.datasets.ratings import MOVIELENS, MOVIETWEETINGS, RatingsKind, read_ratings
from services.datasets.synthetic import open_synthetic

NAMES = ("kuairand", "movielens", "movietweetings", "synthetic")
FOLDERS = {
    "kuairand": "kuairand-pure-0425-0430",
    "movielens": "ml-latest-small",
    "movietweetings": "movietweetings-100k",
}
_SLICES = Path(__file__).parent / "slices"


def open_dataset(name: str, limit: int | None = None, data_dir: Path | None = None, **options: Any) -> Dataset:
    """A data set by its name.

    It is looked for in the folder that ``DOLMEN_DATA`` names, then among the slices that ship with the product.

    Args:
        name: One of :data:`NAMES`.
        limit: At most so many examples. A list is never split: the data end before the list that would exceed the
            limit. (Synthetic data have exactly so many.)
        data_dir: In place of ``DOLMEN_DATA``.
        options: For ``synthetic``: seed, users, items, list_size.

    Raises:
        DatasetError: If the name is unknown, the data are not there, or a file or column is missing.
    """
    if name not in NAMES:
        raise DatasetError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")
    if name == "synthetic":
        return open_synthetic(limit, **options)
    if options:
        raise DatasetError(f"{name}: takes no {', '.join(options)}")
    kind = {"movielens": MOVIELENS, "movietweetings": MOVIETWEETINGS}.get(name)
    folder = _locate(name, kind, data_dir)
    if kind is None:
        block, title, licence = read_kuairand(folder), TITLE, LICENCE
    else:
        block, title, licence = read_ratings(folder, kind), kind.title, kind.licence
    return _of_block(name, title, licence, folder, block if limit is None else block.limited(limit))


def _of_block(name: str, title: str, licence: Licence, folder: Path, block: Block) -> Dataset:
    return Dataset(
        name=name,
        title=title,
        licence=licence,
        origin="the slice that ships with Dolmen" if folder.parent == _SLICES else str(folder),
        examples=int(block.sizes.sum()),
        tasks=tuple(block.labels),
        has_truth=False,
        blocks=lambda: iter((block,)),
    )


def _locate(name: str, kind: RatingsKind | None, data_dir: Path | None) -> Path:
    root = data_dir or (Path(os.environ["DOLMEN_DATA"]) if os.environ.get("DOLMEN_DATA") else None)
    if root is not None and (root / FOLDERS[name]).is_dir():
        return root / FOLDERS[name]
    if (_SLICES / name).is_dir():
        return _SLICES / name
    place = f"{root}/{FOLDERS[name]}" if root else f"a folder {FOLDERS[name]}/ in the folder that DOLMEN_DATA names"
    text = f"{name}: the data are not in {place}, and no slice of them ships with Dolmen"
    if kind is not None:
        text += (
            f".\nPublic download: {kind.download}.\nLicence: {kind.licence.name}. Cite {kind.licence.attribution}."
            f"\nThen set DOLMEN_DATA to the folder that holds {FOLDERS[name]}/."
        )
    raise DatasetError(text)


def open_file(path: Path) -> Iterator[bytes]:
    """The lines of a file of messages (NDJSON), plain or gzip, as they are and without their ends.

    Every line is given, empty ones too, so that a count of them is the line number. Nothing is parsed.

    Raises:
        DatasetError: If the file cannot be read.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
            for line in lines:
                yield line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
