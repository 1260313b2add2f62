"""KuaiRand-Pure: short-video impressions of the Kuaishou app, with their outcomes.

Rows of one user at one millisecond are one list. Everything that the log learned after the impression is a label or an
outcome and never a field of the user, the context or the item.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.datasets.block import Block, Values, coded
from services.datasets.dataset import Licence
from services.datasets.parquet import gather, integers, labels, read_table, rows_of, values
from trainer.example import Coded
from trainer.json_value import MISSING

TITLE = "KuaiRand-Pure, short-video impressions"
LICENCE = Licence(
    "CC BY-SA 4.0",
    "Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022, "
    "doi 10.1145/3511808.3557624",
)
LABELS = {"click": "is_click", "long_view": "long_view", "like": "is_like"}
PROFILE = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "follow_user_num_range",
    "fans_user_num",
    "fans_user_num_range",
    "friend_user_num",
    "friend_user_num_range",
    "register_days",
    "register_days_range",
    *(f"onehot_feat{index}" for index in range(18)),
)
VIDEO = ("video_type", "upload_dt", "upload_type", "music_id", "music_type")
IMPRESSION = (
    "user_id",
    "video_id",
    "time_ms",
    "tab",
    "author_id",
    "tag",
    "duration_ms",
    "play_time_ms",
    *LABELS.values(),
)


def read_kuairand(folder: Path) -> Block:
    """The log of a folder with impressions.parquet, users.parquet and videos.parquet.

    Raises:
        DatasetError: Naming the file and the column.
    """
    path, users_path, videos_path = (folder / f"{name}.parquet" for name in ("impressions", "users", "videos"))
    log = read_table(path, IMPRESSION)
    users = read_table(users_path, ("user_id", *PROFILE))
    videos = read_table(videos_path, ("video_id", *VIDEO))

    user, time_ms = integers(log, "user_id", path), integers(log, "time_ms", path)
    order, sizes = lists_of(user, time_ms)
    heads = order[np.cumsum(sizes) - sizes]
    video = integers(log, "video_id", path)[order]
    tag, first_tag = _tags(values(log, "tag", path)[order])
    profile = rows_of(integers(users, "user_id", users_path), user[heads])
    clip = rows_of(integers(videos, "video_id", videos_path), video)

    found: dict[str, Values] = {"user.id": user[heads]}
    for name in PROFILE:
        found[f"user.{name}"] = gather(values(users, name, users_path), profile)
    found["context.tab"] = values(log, "tab", path)[heads]
    found["item.id"] = video
    found["item.author_id"] = values(log, "author_id", path)[order]
    found["item.tag"] = tag
    found["item.first_tag"] = first_tag
    found["item.duration_ms"] = values(log, "duration_ms", path)[order]
    for name in VIDEO:
        found[f"item.{name}"] = gather(values(videos, name, videos_path), clip)
    return Block(
        sizes=sizes,
        ts=time_ms[heads],
        values=found,
        labels={task: labels(log, column, path)[order] for task, column in LABELS.items()},
        outcomes={"play_time_ms": integers(log, "play_time_ms", path)[order]},
    )


def lists_of(user: NDArray[np.int64], time_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in event-time order, those of one user at one millisecond side by side.

    Rows of a list keep their order, and lists of one millisecond that of their first rows.

    Args:
        user: int64[N], the visitor of each row.
        time_ms: int64[N], event time in ms since the epoch.

    Returns:
        int64[N], the rows in order, and int64[L], how many each list has.

    >>> order, sizes = lists_of(np.array([7, 8, 7, 7]), np.array([5, 5, 5, 4]))
    >>> order.tolist(), sizes.tolist()
    ([3, 0, 2, 1], [1, 2, 1])
    """
    if len(user) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    grouped = np.lexsort((user, time_ms))
    starts = np.r_[True, (np.diff(user[grouped]) != 0) | (np.diff(time_ms[grouped]) != 0)]
    first = grouped[starts]
    list_of_row = np.empty(len(user), dtype=np.int64)
    list_of_row[grouped] = np.cumsum(starts) - 1
    by_first = np.lexsort((first, time_ms[first]))
    rank = np.empty(len(first), dtype=np.int64)
    rank[by_first] = np.arange(len(first))
    order = np.argsort(rank[list_of_row], kind="stable")
    return order.astype(np.int64), np.bincount(rank[list_of_row]).astype(np.int64)


def _tags(text: Values) -> tuple[Coded, Coded]:
    """The topics of each row, ``"12,65"`` as ``[12, 65]``, and the first of them; absent where unknown."""
    if not isinstance(text, Coded):
        text = Coded(np.arange(len(text)), coded([str(value) for value in text.tolist()]))
    lists = [_parse_tags(value) for value in text.values]
    first = [topics[0] if isinstance(topics, list) else MISSING for topics in lists]
    return Coded(text.codes, coded(lists)), Coded(text.codes, coded(first))


def _parse_tags(value: object) -> object:
    topics = [int(part) for part in str(value).split(",") if part.strip().isdecimal()]
    return topics or MISSING
