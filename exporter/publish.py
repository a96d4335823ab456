"""Publishing: a version appears in the repository complete or not at all.

Files are written to a directory that no server looks at, beside the versions and so on the same
file system; a rename makes it a version. Nothing that was published is ever changed.
"""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from exporter.errors import PublishFailed, UsageError
from exporter.signing import PrivateKey
from service.repository.layout import STAGE_PREFIX
from service.repository.manifest import MANIFEST_FILE, Manifest, sha256_of
from service.repository.model_config import CONFIG_FILE
from service.repository.names import MODEL_NAME_RULE, is_model_name, parse_version
from service.repository.signing import SIGNATURE_FILE

_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_AT_FDCWD: Final = -100  # linux/fcntl.h
_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_ATTEMPTS: Final = 100  # exports that may finish between a look at the versions and the rename


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a version is written before it is one.

    model: the model's directory in the repository. files: what becomes the version.
    work: for files that do not; on the same file system, so that they can be moved over.
    """

    model: Path
    files: Path
    work: Path


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Stage]:
    """Give directories to write a version in; what was not published is removed at the end.

    Directories of the repository and the model are made, and removed again if nothing came of
    it. Raises UsageError if name cannot name a model, PublishFailed if nothing can be written.
    """
    if not is_model_name(name):
        raise UsageError(f"{name!r} cannot name a model: {MODEL_NAME_RULE}")
    model = repository / name
    created = _missing(model)
    place: Path | None = None
    try:
        try:
            place = _make_place(model)
            stage = _lay_out(model, place)
            for directory in created:
                directory.chmod(0o755)  # whatever the umask: the server may run as another user
        except OSError as error:
            raise _refusal(model, error) from error
        yield stage
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        for directory in created:
            with suppress(OSError):  # not empty: a version was published there
                directory.rmdir()


def publish(
    stage: Stage,
    manifest: Manifest,
    version: int | None,
    *,
    key: PrivateKey | None = None,
    config: str | None = None,
) -> tuple[Path, Manifest]:
    """Make the staged files a version and return its directory and manifest.

    manifest: gets the number of the version and the digest of every staged file.
    version: the number to take; None: one above the highest. key: signs it, if there is one.
    config: text of a config.pbtxt for the model, written with the labels unless there is one.
    Raises PublishFailed if the version exists or the file system refuses.
    """
    placed: list[Path] = []
    try:
        return _publish(stage, manifest, version, key, config, placed)
    except BaseException as error:
        # Unless another export published meanwhile, there is no version that they could be for.
        if placed and not _has_versions(stage.model):
            for path in placed:
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refusal(stage.model, error) from error
        raise


def _publish(
    stage: Stage,
    manifest: Manifest,
    version: int | None,
    key: PrivateKey | None,
    config: str | None,
    placed: list[Path],
) -> tuple[Path, Manifest]:
    """Publish; note in `placed` what was written beside the versions."""
    model, files = stage.model, stage.files
    digests = {path.name: sha256_of(path) for path in sorted(files.iterdir())}
    manifest = replace(manifest, files=digests)
    for path in files.iterdir():
        path.chmod(0o644)
        _sync(path)
    for _ in range(_ATTEMPTS):
        number = _free_version(model, version)
        manifest = replace(manifest, version=number)
        _write_manifest(files, manifest)
        if key is not None:  # anew for each number: the manifest says it
            (files / SIGNATURE_FILE).unlink(missing_ok=True)
            key.sign(files, name=str(number))
        if config is not None:
            _place_config(stage, config, manifest, placed)
        if _rename(files, model / str(number)):
            placed.clear()
            _sync(model)
            _sync(model.parent)
            return model / str(number), manifest
    raise PublishFailed(f"{model}: other exports took {_ATTEMPTS} versions meanwhile; try again")


def next_version(model: Path) -> int:
    """Return the number that the next version of a model would get."""
    try:
        taken = [parse_version(entry.name) or 0 for entry in model.iterdir()]
    except FileNotFoundError:
        taken = []
    except OSError as error:
        raise _refusal(model, error) from error
    return max(taken, default=0) + 1


def _has_versions(model: Path) -> bool:
    return any(parse_version(entry.name) is not None for entry in model.iterdir())


def _missing(directory: Path) -> list[Path]:
    """Return what does not exist of a directory and those above it, deepest first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def _make_place(model: Path) -> Path:
    for _ in range(_ATTEMPTS):
        if model.is_symlink():
            raise PublishFailed(
                f"{model}: a symbolic link; a model is a directory of the repository itself",
            )
        model.mkdir(parents=True, exist_ok=True)
        # A failing export beside this one may remove the empty directory of the model.
        with suppress(FileNotFoundError):
            return Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=model))
    raise PublishFailed(f"{model}: disappears again and again; is something cleaning up there?")


def _lay_out(model: Path, place: Path) -> Stage:
    stage = Stage(model, place / "version", place / "work")
    for directory in (stage.files, stage.work):
        directory.mkdir()
    stage.files.chmod(0o755)
    return stage


def _free_version(model: Path, version: int | None) -> int:
    if version is None:
        return next_version(model)
    if (model / str(version)).exists():
        raise PublishFailed(
            f"{model / str(version)} exists, and published versions are never changed; leave "
            "--version out for the next free number, or remove it first",
        )
    return version


def _place_config(stage: Stage, config: str, manifest: Manifest, placed: list[Path]) -> None:
    """Write config.pbtxt and the labels that it names, unless there is one: that is the user's."""
    if (stage.model / CONFIG_FILE).exists():
        return
    labels = sorted(set(manifest.labels.values()))
    contents = {name: (stage.files / name).read_bytes() for name in labels}
    for name, content in {**contents, CONFIG_FILE: config.encode()}.items():
        part = stage.work / name
        part.write_bytes(content)
        part.chmod(0o644)
        _sync(part)
        with suppress(FileExistsError):
            os.link(part, stage.model / name)  # unlike a rename, it takes nothing's place
            placed.append(stage.model / name)
        part.unlink()


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    path = directory / MANIFEST_FILE
    path.write_text(manifest.to_json(), encoding="utf-8")
    path.chmod(0o644)
    _sync(path)
    _sync(directory)


def _rename(files: Path, target: Path) -> bool:
    """Tell whether the staged files became the target; False if something is there, even empty."""
    try:
        _rename_to_nothing(files, target)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _rename_to_nothing(source: Path, target: Path) -> None:
    """Rename, but not over an empty directory, which a plain rename replaces."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        code = libc.renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
        )
        if code == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # a file system that does not know it
            raise OSError(number, os.strerror(number), str(target))
    source.rename(target)


def _refusal(model: Path, error: OSError) -> PublishFailed:
    return PublishFailed(f"{model}: cannot be written: {error.strerror or error}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
