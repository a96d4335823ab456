"""Where models lie: a repository, the directory of one model, or one .onnx file.

Triton's layout: ROOT/MODEL/VERSION/model.onnx with an optional ROOT/MODEL/config.pbtxt. The
configuration may name another file, and with backend "python" the file is model.py. A
version directory is a decimal number without leading zeros; everything else is ignored, which
is what makes publishing by rename atomic.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import RepositoryError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.manifest import MODEL_FILE
from service.repository.names import MODEL_NAME_RULE, is_model_name, parse_version

PYTHON_FILE: Final = "model.py"
STAGE_PREFIX: Final = ".tmp-"  # of directories that are being written and become versions


@dataclass(frozen=True, slots=True)
class VersionSource:
    """The files of one version. file: None means the usual name in directory.

    beside: the directory of the model, where it is not the version's.
    """

    model: str
    version: int
    directory: Path
    file: Path | None = None
    beside: Path | None = None

    @property
    def model_directory(self) -> Path:
        """Return the directory of the model, with config.pbtxt and the files that it names."""
        return self.beside or self.directory

    def model_file(self, default_name: str = "") -> Path:
        """Return the ONNX file; a directory of that name holds a file of that name.

        default_name: default_model_filename of the configuration.
        """
        if self.file is not None:
            return self.file
        path = self.directory / (default_name or MODEL_FILE)
        return path / path.name if path.is_dir() else path


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model and its versions, ascending. directory: where config.pbtxt may lie.

    problem: why its directory cannot be read; "" if it can. config: what counts in place of
    config.pbtxt; None: that does.
    """

    name: str
    directory: Path
    versions: tuple[VersionSource, ...]
    problem: str = ""
    config: ModelConfig | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """Something that models are read from; `scan` reads it anew each time."""

    path: Path
    model_name: str = ""  # name for a single model; "": from the path
    may_be_empty: bool = False  # models may come later

    def scan(self) -> list[ModelSource]:
        """Return the models, by name.

        Raises RepositoryError if the path is missing, unreadable, or holds no model and must.
        """
        path = self.path
        if not path.exists():
            raise RepositoryError(f"{path}: no such file or directory; expected {_EXPECTED}")
        if path.is_file():
            return [self._file(path)]
        try:
            entries = sorted(entry for entry in path.iterdir() if entry.is_dir())
        except OSError as error:
            raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error
        if (path / MODEL_FILE).exists() or any(_is_version(entry) for entry in entries):
            return [self._single(path)]
        found = [read_model(entry.name, entry) for entry in entries if is_model_name(entry.name)]
        models = [source for source in found if not _is_being_exported(source)]
        if not models and not self.may_be_empty:
            raise RepositoryError(f"{path}: holds no model; expected {_EXPECTED}")
        return models

    def _file(self, path: Path) -> ModelSource:
        name = self._name(path.stem)
        return ModelSource(name, path.parent, (VersionSource(name, 1, path.parent, path),))

    def _single(self, path: Path) -> ModelSource:
        name = self._name(path.resolve().name)
        if (path / MODEL_FILE).exists():
            return ModelSource(name, path, (VersionSource(name, 1, path),))
        return read_model(name, path)

    def _name(self, derived: str) -> str:
        name = self.model_name or derived
        if not is_model_name(name):
            raise RepositoryError(
                f"{self.path}: '{name}' cannot name a model ({MODEL_NAME_RULE}); "
                "give one with --model-name",
            )
        return name


_EXPECTED = (
    "a repository (MODEL/VERSION/model.onnx or .../model.py), the directory of one model "
    "(VERSION/model.onnx, VERSION/model.py or model.onnx), or a file model.onnx"
)


def read_model(name: str, directory: Path) -> ModelSource:
    """Return the model in a directory of versions."""
    try:
        numbers = {parse_version(e.name): e for e in directory.iterdir() if e.is_dir()}
    except OSError as error:
        return ModelSource(name, directory, (), f"{directory}: cannot be read: {error.strerror}")
    versions = tuple(
        VersionSource(name, number, path, beside=directory)
        for number, path in sorted((n, p) for n, p in numbers.items() if n is not None)
    )
    return ModelSource(name, directory, versions)


def _is_being_exported(source: ModelSource) -> bool:
    """Tell whether a first export is writing: it stages beside the versions, under a dot."""
    if source.versions or source.problem:
        return False
    return any(entry.name.startswith(STAGE_PREFIX) for entry in source.directory.iterdir())


def _is_version(directory: Path) -> bool:
    """Tell a version from a model whose name is a number: that one has versions in it."""
    if parse_version(directory.name) is None:
        return False
    try:
        return not any(parse_version(e.name) for e in directory.iterdir() if e.is_dir())
    except OSError:
        return True
