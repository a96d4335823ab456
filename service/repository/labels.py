"""Label files: names of the elements of an output, one a line, for the classification extension."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from service.errors import ConfigError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.manifest import Manifest

Labels: TypeAlias = Mapping[str, tuple[str, ...]]
_MAX_BYTES: Final = 16 << 20
_MAX_LABEL: Final = 1024  # characters


def read_labels(
    model_directory: Path,
    version_directory: Path,
    config: ModelConfig | None,
    manifest: Manifest | None,
) -> Labels:
    """Return the labels of each output that has some, by index.

    `label_filename` of config.pbtxt is looked for in the model's directory, what the manifest
    lists in the version's. Where both name the same file, each version has its own.
    Raises ConfigError for a file that is missing, outside of the directory, too large or no text.
    """
    listed = dict(manifest.labels) if manifest is not None else {}
    places = {output: version_directory / name for output, name in listed.items()}
    roots = dict.fromkeys(places, version_directory)
    for entry in config.output if config is not None else ():
        name = entry.label_filename
        if name and listed.get(entry.name) != name:
            places[entry.name], roots[entry.name] = model_directory / name, model_directory
    return {output: _read(path, roots[output], output) for output, path in places.items()}


def _read(path: Path, root: Path, output: str) -> tuple[str, ...]:
    where = f"{path}: labels of output '{output}'"
    try:
        # Whether something is there is not told of what lies elsewhere.
        if not path.resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"{where}: expected a file inside {root}")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{where}: cannot be read: {reason}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{where}: larger than {_MAX_BYTES} bytes")
    try:
        labels = tuple(line.rstrip("\r") for line in content.decode().split("\n"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text at byte {error.start}") from error
    for number, label in enumerate(labels, 1):
        if len(label) > _MAX_LABEL:
            raise ConfigError(
                f"{where}: line {number} has {len(label)} characters, at most {_MAX_LABEL}"
            )
    return labels[:-1] if labels[-1] == "" else labels
