"""Publishing: atomic, never over what is there, nothing left behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exporter.errors import PublishFailed, UsageError
from exporter.publish import publish, staging
from service.errors import RepositoryError
from service.repository.layout import Repository
from service.repository.manifest import Manifest, check_files, read_manifest
from service.tensors import FP32, TensorSpec

_ROOT = Path(__file__).parents[3]
_MANIFEST = Manifest(
    name="m",
    version=0,
    inputs=(TensorSpec("x", FP32, (-1, 2)),),
    outputs=(TensorSpec("y", FP32, (-1, 2)),),
    max_batch_size=4,
    opset=20,
    files={},
)


def _publish(repository: Path, version: int | None = None, content: bytes = b"model") -> Path:
    with staging(repository, "m") as stage:
        (stage.files / "model.onnx").write_bytes(content)
        return publish(stage, _MANIFEST, version)[0]


def _fail_halfway(repository: Path) -> None:
    with staging(repository, "m") as stage:
        (stage.files / "model.onnx").write_bytes(b"half")
        raise ZeroDivisionError


def test_a_version_is_complete(tmp_path: Path) -> None:
    """A published version has its files, their digests and its number in the manifest."""
    path = _publish(tmp_path / "models")
    manifest = read_manifest(path)
    assert path == tmp_path / "models" / "m" / "1"
    assert manifest is not None
    assert (manifest.version, sorted(manifest.files)) == (1, ["model.onnx"])
    check_files(path, manifest)


def test_versions_count_up_from_the_highest(tmp_path: Path) -> None:
    """The next version is one above the highest, whatever else lies there."""
    (tmp_path / "m" / "7").mkdir(parents=True)
    (tmp_path / "m" / "notes").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text("")
    assert [_publish(tmp_path).name, _publish(tmp_path).name] == ["8", "9"]


def test_a_version_that_exists_is_never_changed(tmp_path: Path) -> None:
    """Asking for a number that is taken is refused and changes no byte."""
    path = _publish(tmp_path, 3, b"first")
    with pytest.raises(PublishFailed, match="never changed"):
        _publish(tmp_path, 3, b"second")
    assert (path / "model.onnx").read_bytes() == b"first"


def test_a_free_number_can_be_asked_for(tmp_path: Path) -> None:
    """A number below the highest is taken if it is free."""
    _publish(tmp_path, 5)
    assert _publish(tmp_path, 2).name == "2"


def test_everybody_may_read_a_version(tmp_path: Path) -> None:
    """Files are 0644 and directories 0755, whatever the umask: servers run as other users."""
    umask = os.umask(0o077)
    try:
        _publish(tmp_path / "models")
    finally:
        os.umask(umask)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "models").rglob("*")}
    assert modes == {"m": 0o755, "1": 0o755, "model.onnx": 0o644, "manifest.json": 0o644}
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    """If the export fails, not even the directories that were made for it stay."""
    repository = tmp_path / "deep" / "models"
    with pytest.raises(ZeroDivisionError):
        _fail_halfway(repository)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_other_versions_alone(tmp_path: Path) -> None:
    """What was published before is there afterwards, and nothing else."""
    _publish(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _fail_halfway(tmp_path)
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]


def test_exports_at_the_same_time_give_versions_of_their_own(tmp_path: Path) -> None:
    """Eight publishers that start together give eight whole versions."""
    barrier = threading.Barrier(8, timeout=30)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            with staging(tmp_path, "m") as stage:
                (stage.files / "model.onnx").write_bytes(bytes([number]))
                barrier.wait()
                publish(stage, _MANIFEST, None)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    paths = [tmp_path / "m" / str(number) for number in range(1, 9)]
    assert {(path / "model.onnx").read_bytes()[0] for path in paths} == set(range(8))
    for path in paths:
        manifest = read_manifest(path)
        assert manifest is not None
        assert str(manifest.version) == path.name
        check_files(path, manifest)
    assert len(list((tmp_path / "m").iterdir())) == 8


def test_a_killed_export_leaves_no_version(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves nothing that a server would load."""
    program = (
        "import sys; from pathlib import Path; from exporter.publish import staging\n"
        "with staging(Path(sys.argv[1]), 'm') as stage:\n"
        "    (stage.files / 'model.onnx').write_bytes(b'half'); print('staged', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        process.kill()
    with pytest.raises(RepositoryError, match="holds no model"):
        Repository(tmp_path).scan()
    assert _publish(tmp_path).name == "1"
    (model,) = Repository(tmp_path).scan()
    assert [source.version for source in model.versions] == [1]


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", ".hidden", "-dash", "é", "a" * 129])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name becomes a directory: nothing is written for one that is not plain."""
    with pytest.raises(UsageError, match="cannot name a model"), staging(tmp_path, name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """Where nothing can be written the path and the reason are said."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PublishFailed, match="file/m: cannot be written"),
        staging(tmp_path / "file", "m"),
    ):
        pass


def test_a_stage_is_no_model(tmp_path: Path) -> None:
    """A server that scans while an export runs sees no version of it."""
    with staging(tmp_path, "m") as stage:
        (stage.files / "model.onnx").write_bytes(b"half")
        try:
            versions = [v for model in Repository(tmp_path).scan() for v in model.versions]
        except RepositoryError:
            versions = []
        assert versions == []


def test_a_model_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """What is published lies in the repository itself, not wherever a link leads."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishFailed, match="a symbolic link"):
        _publish(tmp_path / "models")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_empty_directory_is_not_replaced(tmp_path: Path) -> None:
    """A directory with a version's number is taken, though there is nothing in it yet."""
    with staging(tmp_path, "m") as stage:
        (stage.files / "model.onnx").write_bytes(b"model")
        (tmp_path / "m" / "1").mkdir()
        assert publish(stage, _MANIFEST, None)[0].name == "2"
    with staging(tmp_path, "m") as stage, pytest.raises(PublishFailed, match="never changed"):
        publish(stage, _MANIFEST, 1)
    assert list((tmp_path / "m" / "1").iterdir()) == []


def test_a_directory_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the rename somebody may have begun to copy a version there."""
    numbers = iter((1, 2))
    monkeypatch.setattr("exporter.publish.next_version", lambda _model: next(numbers))
    with staging(tmp_path, "m") as stage:
        (stage.files / "model.onnx").write_bytes(b"model")
        (tmp_path / "m" / "1").mkdir()
        assert publish(stage, _MANIFEST, None)[0].name == "2"
    assert list((tmp_path / "m" / "1").iterdir()) == []
