"""A sweep's folder by its name, or by the place that another host calls it by."""

from __future__ import annotations

from pathlib import Path

from laresa.errors import ConfigError
from sweeps.service.storage.bucket import Bucket, is_uri
from sweeps.service.storage.bucket_files import BucketFiles
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.shared_folder import home


def sweep_at(place: str) -> SweepFolder:
    """The sweep's folder by its `SweepFolder.place`: a path, or a URI."""
    if not is_uri(place):
        return SweepFolder(Path(place))
    mirror = BucketFiles(Bucket(place))
    return SweepFolder(mirror.root, mirror)


def sweep_folder(name: str, storage: Path | str | None = None) -> SweepFolder:
    """The folder of a sweep below `storage` (a path, the URI of a bucket; default: `home`)."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"sweep name {name!r}: expected a plain name without '/', such as 'my-ablation'")
    place = str(storage or home() / "storage")
    if is_uri(place):
        return sweep_at(Bucket(place).below(name).uri)
    return SweepFolder(Path(place).expanduser().resolve() / name)
