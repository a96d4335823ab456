"""Lint: what a server would refuse in a repository, and what it would serve with a warning.

The server's own rules for layout, configuration, manifests and signatures are asked; files are
loaded and run in child processes.
"""

import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from exporter.check import served_signature
from exporter.children import DEFAULT_TIMEOUT_S, run_child
from exporter.errors import ExportError, UsageError
from exporter.golden import read_golden
from exporter.inspection import inspect
from exporter.proof import compare
from exporter.session import Session
from service.errors import LoadError, RepositoryError, SettingsError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import STAGE_PREFIX, ModelSource, Repository, VersionSource
from service.repository.manifest import MANIFEST_FILE, Manifest, check_files, read_manifest
from service.repository.model_config import read_config
from service.repository.names import is_model_name, parse_version
from service.repository.signature import ModelSpec, resolve
from service.repository.signing import SIGNATURE_FILE, PublicKey
from service.repository.stateful import can_batch, inferred

ERROR: Final = "error"
WARNING: Final = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. level: error: it is not served; warning: it is, but.

    version: 0 if it is about the model, or, without a model, about the repository.
    """

    level: str
    model: str
    version: int
    message: str

    def __str__(self) -> str:
        """Return it as a line."""
        place = "/".join(filter(None, (self.model, str(self.version or ""))))
        return f"{self.level}: {place + ': ' if place else ''}{self.message}"


def lint(
    repository: str | Path,
    *,
    key: str | Path | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Finding]:
    """Return what is wrong in a repository, in the directory of a model, or with a file.

    key: a public key that every version must be signed with. Raises UsageError if it is no key.
    """
    path = Path(repository)
    public = _public_key(key)
    try:
        models = Repository(path).scan()
    except RepositoryError as error:
        return [Finding(ERROR, "", 0, str(error))]
    findings = list(_ignored(path, models))
    for model in models:
        findings += _lint_model(model, public, timeout_s)
    return findings


def _public_key(key: str | Path | None) -> PublicKey | None:
    try:
        return None if key is None else PublicKey(Path(key))
    except SettingsError as error:
        raise UsageError(f"--key {error}") from error


def _ignored(path: Path, models: list[ModelSource]) -> Iterator[Finding]:
    """Find entries of a repository that no server looks at."""
    if not path.is_dir() or any(model.directory == path for model in models):
        return
    known = {model.name for model in models}
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and entry.name not in known:
            why = "no model's name" if not is_model_name(entry.name) else "nothing to serve"
            yield Finding(WARNING, "", 0, f"'{entry.name}' is ignored: {why}")


def _lint_model(model: ModelSource, key: PublicKey | None, timeout_s: float) -> list[Finding]:
    if model.problem:
        return [Finding(ERROR, model.name, 0, model.problem)]
    findings = list(_entries(model))
    config: ModelConfig | None = None
    try:
        config = read_config(model.directory)
    except LoadError as error:
        findings.append(Finding(ERROR, model.name, 0, str(error)))
    findings += _labels(model, config)
    if not model.versions:
        findings.append(Finding(ERROR, model.name, 0, "has no version: a directory 1, 2, ..."))
    for version in model.versions:
        findings += _lint_version(version, config, key, timeout_s)
    return findings


def _entries(model: ModelSource) -> Iterator[Finding]:
    if any(version.file is not None for version in model.versions):
        return
    for entry in sorted(model.directory.iterdir()):
        if not entry.is_dir() or parse_version(entry.name) is not None:
            continue
        if entry.name.startswith(STAGE_PREFIX):
            text = f"'{entry.name}' is left of an export that was killed, or of one that is running"
        elif entry.name.isdigit():
            text = f"'{entry.name}' is ignored: versions have no leading zeros and begin at 1"
        else:
            continue
        yield Finding(WARNING, model.name, 0, text)


def _labels(model: ModelSource, config: ModelConfig | None) -> Iterator[Finding]:
    for output in config.output if config is not None else ():
        name = output.label_filename
        if name and not (model.directory / name).is_file():
            text = f"config.pbtxt names the labels '{name}', which are not there"
            yield Finding(ERROR, model.name, 0, text)


def _lint_version(
    source: VersionSource, config: ModelConfig | None, key: PublicKey | None, timeout_s: float
) -> list[Finding]:
    """Do what a server does to load a version, and say where it would stop."""
    errors: list[str] = []
    warnings: list[str] = []
    path = source.model_file(config.default_model_filename if config is not None else "")
    try:
        if key is not None:
            key.check(source.directory, source.model, source.version)
        manifest = None if source.file is not None else read_manifest(source.directory)
        if manifest is not None:
            check_files(source.directory, manifest)
        warnings += _files(source, manifest)
        if not path.is_file():
            raise LoadError(f"{path}: no such file")
        found = run_child(
            "exporter.linting:try_version",
            (path, source.directory, config.SerializeToString() if config else None, manifest),
            what="loading it as a server would",
            timeout_s=timeout_s,
        )
        errors += found[0]
        warnings += found[1]
    except (LoadError, ExportError) as error:
        errors.append(str(error))
    return [
        Finding(level, source.model, source.version, text)
        for level, texts in ((ERROR, errors), (WARNING, warnings))
        for text in texts
    ]


def _files(source: VersionSource, manifest: Manifest | None) -> Iterator[str]:
    if source.file is not None:
        return
    if manifest is None:
        yield "has no manifest.json: nothing says whether its files are whole"
    elif (manifest.name, manifest.version) != (source.model, source.version):
        yield f"manifest.json is that of {manifest.name}/{manifest.version}"
    for path in sorted(source.directory.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(source.directory)
        if stat.S_ISLNK(mode):
            yield f"'{name}' is a symbolic link"
        elif not mode & stat.S_IROTH:
            yield f"'{name}' cannot be read by other users ({mode & 0o777:o}): chmod o+r"
        elif mode & stat.S_IWOTH:
            yield f"'{name}' can be written by anybody ({mode & 0o777:o}): chmod o-w"
        if manifest is not None and path.is_file():
            own = {*manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
            if str(name) not in own:
                yield f"'{name}' is not listed in manifest.json"


def try_version(
    path: Path, directory: Path, config: bytes | None, manifest: Manifest | None
) -> tuple[list[str], list[str]]:
    """Load a version in this process, resolve its signature and replay its golden pairs.

    config: a ModelConfig, serialised. Returns errors and warnings.
    """
    errors: list[str] = []
    warnings: list[str] = []
    summary = inspect(path)
    if summary.leaks:
        warnings.append(f"{summary.leaks} nodes carry paths of the machine that made it")
    session = Session(path, manifest.session if manifest is not None else None)
    try:
        parsed = None if config is None else ModelConfig.FromString(config)
        graph = served_signature(path, session.inputs, session.outputs, session.defaults)
        spec = resolve(graph, parsed, manifest)
    except LoadError as error:
        return [str(error)], warnings
    states = inferred(graph, manifest)
    if states is None or not can_batch(graph, states):  # else steps are batched
        warnings += _batching(spec)
    if manifest is not None and manifest.golden:
        errors += _replay(session, directory / manifest.golden, manifest)
    return errors, warnings


def _batching(spec: ModelSpec) -> list[str]:
    if spec.max_batch_size == 0:
        return ["is served without batches: axis 0 is not the same free axis everywhere"]
    if not spec.is_proved:
        return ["nothing proves that its rows are independent: a server tries it at the start"]
    return []


def _replay(session: Session, path: Path, manifest: Manifest) -> list[str]:
    try:
        pairs = read_golden(path)
        for index, (inputs, expected) in enumerate(pairs):
            outputs = session.run(inputs)
            for name, want in expected.items():
                found = compare(outputs[name], want, manifest.tolerance)
                if not found.passes:
                    text = (
                        f"golden pair {index}: output '{name}' is off by {found.max_abs:.3g}, "
                        f"{found.allowed:.3g} is allowed; this machine computes something else"
                    )
                    return [text]
    except (OSError, ValueError, KeyError, ExportError) as error:
        return [f"{path.name}: golden pairs cannot be run: {error}"]
    return []


def as_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """Return findings for programs."""
    return [asdict(finding) for finding in findings]
