"""Named bytes below one folder: of this machine, of S3 and the like, or of whatever fsspec knows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
from pyarrow import fs

from services.archive.errors import ArchiveError, ArchiveUnavailable

_WITHOUT_FOLDERS = ("s3", "gcs", "abfs")  # their folders are but parts of names


class Storage:
    """A folder. Every name is relative to it, with slashes.

    Args:
        path: A local path, or a URL such as ``s3://bucket/examples?region=eu-west-1``. Schemes that PyArrow does not
            know go to fsspec. Credentials come from the environment, as the clients of S3 and of others look for them.

    Raises:
        ArchiveError: If no file system is known for the URL.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fs, self._root = _find(path)
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """The bytes of a name; None if there are none."""
        with self._translated(name):
            try:
                with self._fs.open_input_file(self._place(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Sets the bytes of a name, durably: whoever reads sees the old ones or the new ones, never a part."""
        place = self._place(name)
        with self._translated(name):
            if self._is_local:
                self._write_here(Path(place), data)
                return
            if self._fs.type_name not in _WITHOUT_FOLDERS:
                self._fs.create_dir(place.rpartition("/")[0])
            with self._fs.open_output_stream(place) as file:
                file.write(data)

    def remove(self, name: str) -> None:
        """Removes a name, if it is there, and what a broken :meth:`write` of it left."""
        with self._translated(name):
            if self._is_local:
                _part_of(Path(self._place(name))).unlink(missing_ok=True)
            try:
                self._fs.delete_file(self._place(name))
            except FileNotFoundError:
                return

    def names(self) -> Iterator[str]:
        """The names of all files, but for those that begin with a dot. In no order."""
        with self._translated("the folder"):
            found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True))
        for one in found:
            if one.type == fs.FileType.File and not one.base_name.startswith("."):
                yield one.path[len(self._root) :].lstrip("/")

    def has_folders(self) -> bool:
        """Whether a folder of rows lies here."""
        with self._translated("the folder"):
            found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return any(one.type == fs.FileType.Directory for one in found)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write_here(self, place: Path, data: bytes) -> None:
        is_new = not place.parent.exists()
        place.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(place)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
        for folder in [place.parent, *(place.parent.parents if is_new else ())]:
            _sync(folder)
            if folder == Path(self._root):
                break

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise ArchiveUnavailable(f"{name} of the archive: {error}") from error


def _part_of(place: Path) -> Path:
    """Where a file is written before it takes its place."""
    return place.with_name(f".{place.name}.part")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find(path: str) -> tuple[fs.FileSystem, str]:
    if "://" not in path:
        return fs.LocalFileSystem(), str(Path(path).absolute())
    try:
        system, root = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError):
        try:
            known, root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            raise ArchiveError(f"{path.partition('://')[0]}://: no file system is known for it: {error}") from error
        system = fs.PyFileSystem(fs.FSSpecHandler(known))
    return system, root.rstrip("/")
