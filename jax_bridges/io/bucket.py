"""Folders in a bucket of Google Cloud Storage, gs://BUCKET/FOLDER, beside those of a disk.

`place` is asked wherever a path may be either; what it gives has the methods of `pathlib.Path` that a work
directory needs. An object appears whole or not at all, and a connection that is lost is waited for, here
and in orbax, which reads and writes by the same client.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from jax_bridges.starting import unfinished

SCHEME = "gs://"
PATIENCE = 150.0  # seconds that a lost connection is waited for
# What orbax writes last into a checkpoint, and into each item of one, in a bucket.
COMMITTED = "commit_success.txt"
_PROBE = ".jax_bridges-"
_RIGHTS = (
    "give its account the roles storage.objectUser and storage.legacyBucketReader on the bucket, or "
    "log in (gcloud auth application-default login)"
)

# etils, by which orbax reads and writes, would take TensorFlow's client where that is installed.
os.environ.setdefault("EPATH_USE_TF", "0")
# Else gcsfs asks another service, with other rights, for the kind of each bucket.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def place(path: str | os.PathLike) -> Path:
    """A path of the disk, or a `Bucket` of what starts with gs://.

    Raises:
      ValueError: gs:// without a bucket, or [gcs] is not installed.
    """
    if isinstance(path, Bucket):
        return cast(Path, path)
    if not os.fspath(path).startswith(SCHEME):
        return Path(path)
    bucket = Bucket(path)
    if len(bucket.parts) < 3:
        raise ValueError(f"{path} names no folder of a bucket: give gs://BUCKET/FOLDER.")
    _client()
    return cast(Path, bucket)


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path lies in a bucket."""
    return os.fspath(path).startswith(SCHEME)


class Bucket(PurePosixPath):
    """A place in a bucket: a folder is there while an object is below it."""

    def __str__(self) -> str:
        return SCHEME + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> Bucket:
        return self

    def resolve(self) -> Bucket:
        return self

    def is_absolute(self) -> bool:
        return True

    # -- what is there ----------------------------------------------------------------------------
    def _kind(self) -> str:
        try:
            with _told(self):
                return _client().info(str(self))["type"]
        except FileNotFoundError:
            return ""

    def exists(self) -> bool:
        return bool(self._kind())

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def is_file(self) -> bool:
        return self._kind() == "file"

    def iterdir(self) -> Iterator[Bucket]:
        with _told(self):
            names = [PurePosixPath(each).name for each in _client().ls(str(self), detail=False)]
        yield from (self / n for n in names if n != self.name and not n.startswith(_PROBE))

    def glob(self, pattern: str) -> Iterator[Bucket]:
        """Those that fit a pattern without `**`."""
        first, _, rest = pattern.partition("/")
        with contextlib.suppress(FileNotFoundError):
            for each in self.iterdir():
                if fnmatch.fnmatchcase(each.name, first):
                    yield from each.glob(rest) if rest else (each,)

    # -- read and write ---------------------------------------------------------------------------
    def read_bytes(self) -> bytes:
        with _told(self):
            return _client().cat_file(str(self))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def open(
        self, mode: str = "r", encoding: str = "utf-8", errors: str = "strict", **_: Any
    ) -> IO[Any]:
        """To be read alone."""
        data = self.read_bytes()
        return io.BytesIO(data) if "b" in mode else io.StringIO(data.decode(encoding, errors))

    def stat(self) -> os.stat_result:
        """Its size alone."""
        with _told(self):
            size = _client().info(str(self))["size"]
        return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))

    def write(self, file: IO[bytes]) -> None:
        """Makes it of what is in a file of the disk, read from its beginning."""
        with _written(self):
            _client().put_file(file.name, str(self))

    def write_bytes(self, data: bytes) -> None:
        with _written(self):
            _client().pipe_file(str(self), data)

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing: folders need not be made."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _told(self):
                _client().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise


def check_bucket(folder: Bucket) -> None:
    """Writes an object into a folder, and deletes it. Raises ValueError: a sentence why that cannot be."""
    probe = folder / f"{_PROBE}{uuid.uuid4().hex}"
    try:
        with _written(folder):
            _client().call("GET", "b/{}", folder.parts[1])  # orbax asks for it too
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def open_whole(bucket: Bucket) -> Iterator[IO[bytes]]:
    """A file of the disk that becomes an object when the block ends without an error."""
    with tempfile.NamedTemporaryFile() as file, unfinished(file.name):
        yield cast(IO[bytes], file)
        file.flush()
        bucket.write(cast(IO[bytes], file))


# -- folders, of either kind ---------------------------------------------------------------------------
def remove_folder(folder: Path) -> None:
    """Removes it with all that is in it; what cannot be removed stays."""
    if not isinstance(folder, Bucket):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError), _told(folder):
        _client().rm(str(folder), recursive=True)


def copy_folder(source: Path, target: Path) -> None:
    """A copy that is there whole or not at all; in a bucket, for who asks for `COMMITTED` in its parts.

    An earlier copy that was not finished makes room.
    """
    if not isinstance(target, Bucket):
        half = target.with_name(f".{target.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half)
        half.rename(target)
        return
    with _told(source):
        found = [Bucket(SCHEME + each) for each in _client().find(str(source))]
    found.sort(key=lambda each: (each.name == COMMITTED, -len(each.parts)))
    for each in found:
        with _told(target):
            _client().cp_file(str(each), str(target / each.relative_to(cast(Any, source))))


class Mirror:
    """A folder of the disk for what is appended to, or written by who knows no buckets, and its place.

    On a disk it is that place. In a bucket its files are sent there whole, now and then; what was not yet
    sent when a process is killed is lost.

    Attributes:
      folder: where files are to be written.
    """

    EVERY, SHARE = 30.0, 100  # seconds; sending takes at most one part in so many of the time

    def __init__(self, target: Path):
        """`target`: a folder."""
        self._target, self._sizes, self._next = target, {}, 0.0
        self._own = None
        if isinstance(target, Bucket):
            self._own = tempfile.TemporaryDirectory(prefix="jax_bridges-")
        self.folder = target if self._own is None else Path(self._own.name)

    def fetch(self, name: str) -> None:
        """Brings a file here that an earlier start has left there."""
        if self._own is not None and (self._target / name).is_file():
            (self.folder / name).write_bytes((self._target / name).read_bytes())

    def send(self, now: bool = False) -> None:
        """Sends what has grown; `now`: whether or not it is time."""
        begin = time.monotonic()
        if self._own is None or (begin < self._next and not now):
            return
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name, size = path.relative_to(self.folder), path.stat().st_size
            if self._sizes.get(name) != size:
                (self._target / name).write_bytes(path.read_bytes())
                self._sizes[name] = size
        end = time.monotonic()
        self._next = end + max(self.EVERY, self.SHARE * (end - begin))

    def close(self) -> None:
        """Forgets what was not sent."""
        if self._own is not None:
            self._own.cleanup()


# -- the client ----------------------------------------------------------------------------------------
@functools.cache
def _client() -> Any:
    """The client, which from then on is orbax's too."""
    try:
        import fsspec
        import gcsfs
    except ImportError:
        raise ValueError("A gs:// path needs pip install 'jax_bridges[gcs]'.") from None
    if not os.environ.get("JAX_BRIDGES_DEBUG"):
        for name in ("gcsfs", "google.auth"):  # they print what they raise as well
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    ask = gcsfs.GCSFileSystem._request
    once = getattr(ask, "__wrapped__", ask)  # its own six tries are over after half a minute

    class Patient(gcsfs.GCSFileSystem):
        """One that waits for a lost connection, and asks anew what is there: other hosts write too."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(
                *args, **{"use_listings_cache": False, "requests_timeout": 120, **kwargs}
            )

        async def _request(self, *args: Any, **kwargs: Any) -> Any:
            until, pause = None, 1.0
            while True:
                try:
                    return await once(self, *args, **kwargs)
                except Exception as error:
                    if not is_lost(error):
                        raise
                    if until is None:
                        until = time.monotonic() + PATIENCE
                        print(
                            f"{self._location} does not answer ({_short(error)}): trying again for "
                            f"{PATIENCE:.0f} s", file=sys.stderr, flush=True,
                        )  # fmt: skip
                    if time.monotonic() + pause > until:
                        raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 16.0)

    for scheme in ("gcs", "gs"):
        fsspec.register_implementation(scheme, Patient, clobber=True)
    return fsspec.filesystem("gcs", finalize_on_close=True)  # as etils asks for it


def is_lost(error: BaseException) -> bool:
    """Whether an error of the client is one that may pass."""
    import google.auth.exceptions
    from gcsfs.retry import is_retriable

    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return False
    return is_retriable(error) or isinstance(error, (asyncio.TimeoutError, ConnectionError))


def reason(error: BaseException, path: str | os.PathLike) -> str:
    """What an error of the client, or of orbax at work in a bucket, means; "" where that is not known."""
    text = f"{type(error).__name__}: {error}"
    bucket = os.fspath(path)[len(SCHEME) :].split("/")[0]
    told = re.search(r"http_response_code='(\d+)'", text)  # by TensorStore
    code = int(told[1]) if told else getattr(error, "code", None)
    refused = ("Forbidden: ", "PERMISSION_DENIED", "RefreshError", "Credentials", "GoogleAuthError")
    if code in (401, 403) or any(each in text for each in refused):
        return f"this machine has no right to use the bucket {bucket}: {_RIGHTS}"
    if code == 404 or isinstance(error, FileNotFoundError):
        return (
            f"there is no bucket {bucket}: make it (gcloud storage buckets create), or name another"
        )
    lost = ("UNAVAILABLE", "Connect", "Timeout", "timed out", "DEADLINE", "Couldn't connect")
    if any(each in text for each in lost) or is_lost(error):
        return f"the connection to {bucket} was lost, and did not come back in {PATIENCE:.0f} s"
    return ""


@contextlib.contextmanager
def _told(path: Path | Bucket) -> Iterator[None]:
    """The client's errors in the block as OSErrors of one sentence; a missing object is FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        what = os.strerror(errno.ENOENT)
        raise FileNotFoundError(errno.ENOENT, what, str(path)) from None
    except Exception as error:  # those of gcsfs, aiohttp, requests and google.auth
        raise OSError(f"{path}: {reason(error, path) or _short(error)}.") from error


@contextlib.contextmanager
def _written(path: Bucket) -> Iterator[None]:
    """As `_told`, where nothing but a bucket can be missing."""
    try:
        with _told(path):
            yield
    except FileNotFoundError as error:
        raise OSError(f"{path}: {reason(error, path)}.") from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
