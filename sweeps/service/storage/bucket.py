"""Objects in a bucket, by pyarrow: each is whole or not there, and whoever asks later sees it.

There are no locks, and nothing is renamed, appended to or made only if it is not there yet.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from laresa.errors import ConfigError, StorageError, nearest

SCHEMES = {
    "abfs": "abfs://container@account.dfs.core.windows.net/prefix",
    "abfss": "abfss://container@account.dfs.core.windows.net/prefix",
    "file": "file:///folder",
    "gs": "gs://bucket/prefix",
    "s3": "s3://bucket/prefix",
}
QUERY = ("endpoint_override", "region", "retry_limit_seconds", "scheme")
PLACE = {"abfs": r"[^:@]+@[^:@]+", "file": "", "gs": r"(anonymous@)?[^:@]+", "s3": r"[^:@]+"}
TRIES, ANSWER = 5, 6.0  # so often S3 is asked, so many seconds its answer may take: its own defaults make 100 s of it
GOOGLE_PATIENCE = 30  # seconds in all, instead of 15 minutes


def is_uri(storage: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", storage) is not None


def check_uri(uri: str) -> None:
    """ConfigError for what names no bucket, or may hold a secret, which is not repeated then."""
    scheme, _, rest = uri.partition(":")
    if scheme not in SCHEMES:
        raise ConfigError(f"--storage {scheme}:...: unknown scheme{nearest(scheme, SCHEMES)}; or a folder")
    place, _, query = rest.partition("?")
    bucket = place.removeprefix("//").partition("/")[0]
    keys = [pair.partition("=")[0] for pair in query.split("&") if pair]
    there = place.startswith("//") and re.fullmatch(PLACE[scheme[:4]], bucket)
    if not there or not set(keys) <= set(QUERY) or "@" in unquote(query):
        raise ConfigError(
            f"--storage {scheme}:...: expected {SCHEMES[scheme]}, and behind a '?' nothing but {', '.join(QUERY)}. "
            "Credentials come from the environment (AWS_*, GOOGLE_APPLICATION_CREDENTIALS, AZURE_*): "
            "others can read a command line"
        )


@functools.cache
def connect(uri: str) -> tuple[Any, str]:
    """(pyarrow's file system, path in it) of a URI."""
    from pyarrow import fs

    scheme, _, query = uri.partition(":")[0], *uri.partition("?")[1:]
    if scheme == "gs" and "retry_limit_seconds" not in query:
        return fs.FileSystem.from_uri(f"{uri}{'&' if query else '?'}retry_limit_seconds={GOOGLE_PATIENCE}")
    system, path = fs.FileSystem.from_uri(uri)
    if scheme == "s3":  # the URI has no word for patience
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=TRIES)
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")  # apache/arrow#49643
        options = {"region": system.region, "endpoint_override": named, **dict(parse_qsl(query))}
        patience = {"retry_strategy": retry, "connect_timeout": ANSWER, "request_timeout": ANSWER}
        system = fs.S3FileSystem(**options, **patience, allow_delayed_open=True)  # one request for a small file, not 3
    return system, path


@dataclass(frozen=True)
class Bucket:
    """The objects below a URI, by their names there. StorageError: the bucket can't be used."""

    uri: str

    def __post_init__(self) -> None:
        check_uri(self.uri)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return unquote(self.uri.partition("?")[0].rstrip("/").rpartition("/")[2])

    def below(self, name: str) -> Bucket:
        path, mark, query = self.uri.partition("?")
        return Bucket(f"{path.rstrip('/')}/{quote(name)}{mark}{query}") if name else self

    def put(self, source: Path, name: str) -> None:
        """Copy a file there."""
        from pyarrow import fs

        with self._used() as (system, base), self._whole(f"{base}/{name}") as path:
            fs.copy_files(str(source), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)

    def write(self, name: str, text: str) -> None:
        with (
            self._used() as (system, base),
            self._whole(f"{base}/{name}") as path,
            system.open_output_stream(path) as file,
        ):
            file.write(text.encode())

    def fetch(self, name: str, target: Path) -> bool:
        """Copy an object here, whole; False if there is none."""
        from pyarrow import fs

        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        here = fs.LocalFileSystem()
        try:
            with self._used(missing=FileNotFoundError) as (system, base):
                fs.copy_files(f"{base}/{name}", str(part), source_filesystem=system, destination_filesystem=here)
            os.replace(part, target)
        except FileNotFoundError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> str | None:
        try:
            with (
                self._used(missing=FileNotFoundError) as (system, base),
                system.open_input_stream(f"{base}/{name}") as file,
            ):
                return str(file.read().decode())
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        with self._used() as (system, base):
            return bool(system.get_file_info(f"{base}/{name}").is_file)

    def names(self, below: str = "") -> dict[str, float]:
        """Name -> when it was written, in seconds of the store's own clock."""
        from pyarrow import fs

        with self._used() as (system, base):
            folder = f"{base}/{below}".rstrip("/")
            found = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
            return {info.path[len(base) + 1 :]: info.mtime_ns / 1e9 for info in found if info.is_file}

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._used(missing=FileNotFoundError) as (system, base):
            system.delete_file(f"{base}/{name}")

    def delete_below(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._used(missing=FileNotFoundError) as (system, base):
            system.delete_dir(f"{base}/{name}")

    @contextlib.contextmanager
    def _used(self, missing: type[Exception] | tuple[()] = ()) -> Iterator[tuple[Any, str]]:
        """missing: an error that the caller expects."""
        from pyarrow import ArrowException

        try:
            yield connect(self.uri)
        except missing:
            raise
        except (OSError, ArrowException) as error:
            raise StorageError(
                f"storage {self.uri} can't be used ({' '.join(str(error).split())}): expected a bucket that exists, "
                "answers, and lets the credentials in this host's environment list, read, write and delete there; "
                "see cluster/README.md"
            ) from error

    @contextlib.contextmanager
    def _whole(self, path: str) -> Iterator[str]:
        """Where to write an object so that nobody sees half of it. Buckets see to that; a file is renamed."""
        system, base = connect(self.uri)
        if system.type_name != "local":
            yield path
            return
        part = f"{base}/.part-{uuid.uuid4().hex}"
        system.create_dir(os.path.dirname(path), recursive=True)
        yield part
        system.move(part, path)
