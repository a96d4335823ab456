"""Files that a caller gives for a model, in a private directory that looks like a repository."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from service.errors import InvalidRequest, RepositoryError, shown
from service.repository.layout import ModelSource, read_model
from service.repository.names import MODEL_NAME

PRIVATE: Final = "penstock-model-"  # how the name of a private directory begins
_MAX_FILES: Final = 64
_MAX_PATH: Final = 255  # characters
_MAX_DEPTH: Final = 4


class OverrideFiles:
    """The files of one model: ROOT/MODEL/VERSION/NAME, readable by this process's user alone."""

    def __init__(self, model: str, files: Mapping[str, bytes]) -> None:
        """Write the files. files: contents by the path below the model's directory.

        Raises InvalidRequest for a path that could lead elsewhere, RepositoryError for one that is
        too long and for files that cannot be written.
        """
        paths = {_checked(path): contents for path, contents in files.items()}
        if len(paths) > _MAX_FILES:
            raise RepositoryError(f"{len(paths)} files of one model, expected at most {_MAX_FILES}")
        try:
            self._root = Path(tempfile.mkdtemp(prefix=PRIVATE))
        except OSError as error:  # as in a container whose root is read-only
            raise RepositoryError(f"files cannot be written: {error.strerror}") from error
        self._model = model
        try:
            for path, contents in paths.items():
                target = self._root / model / path
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                target.write_bytes(contents)
        except OSError as error:
            self.remove()
            raise RepositoryError(f"files cannot be written: {error.strerror}") from error

    def source(self) -> ModelSource:
        """Return the model that the files make."""
        return read_model(self._model, self._root / self._model)

    def remove(self) -> None:
        """Remove the files. Nothing happens the second time."""
        shutil.rmtree(self._root, ignore_errors=True)


def _checked(path: str) -> PurePosixPath:
    """Return a path below a model's directory. Raises InvalidRequest, RepositoryError."""
    if len(path) > _MAX_PATH:
        raise RepositoryError(f"a path of {len(path)} characters, expected at most {_MAX_PATH}")
    parts = path.split("/")
    if len(parts) > _MAX_DEPTH or not all(map(MODEL_NAME.fullmatch, parts)):
        raise InvalidRequest(
            f"load parameter 'file:{shown(path)}' is no path below the model's directory, "
            "expected file:<version>/<file-name>"
        )
    return PurePosixPath(path)
