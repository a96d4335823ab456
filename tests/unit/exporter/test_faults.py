"""A kill, a full disk or a limit at every step of publishing: nothing half-written is visible."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import RepositoryError
from service.repository.layout import ModelSource, Repository
from service.repository.manifest import check_files, read_manifest
from service.repository.model_config import read_config
from service.repository.signing import PublicKey
from tests.support.versions import publish_mlp

_ROOT = Path(__file__).parents[3]


def _run(mode: str, directory: Path, versions: int = 1) -> list[int]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.exporter.faults", mode, str(versions),
         str(directory)],
        cwd=_ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ended: list[int] = json.loads(ran.stdout.splitlines()[-1])
    return ended


def _check_whole(repository: Path, key: Path) -> list[int]:
    """Return the versions that a server sees, each of them whole and signed."""
    (model,) = Repository(repository).scan()
    for source in model.versions:
        manifest = read_manifest(source.directory)
        assert manifest is not None
        assert manifest.version == source.version
        check_files(source.directory, manifest)
        PublicKey(key).check(source.directory, "m", source.version)
    read_config(model.directory)
    return [source.version for source in model.versions]


def test_a_kill_at_any_step_leaves_whole_versions_only(tmp_path: Path) -> None:
    """Killed at each operation on a file in turn: the first version stands, a second is whole."""
    ended = _run("kill", tmp_path)
    assert len(ended) > 30
    assert set(ended[:-1]) == {-signal.SIGKILL}
    assert ended[-1] == 0
    seen = [_check_whole(tmp_path / str(n), tmp_path / "key.pub") for n in range(1, len(ended) + 1)]
    assert seen[0] == [1]
    assert seen[-1] == [1, 2]
    assert all(versions in ([1], [1, 2]) for versions in seen)
    # What a kill leaves behind does not stop the next export.
    assert publish_mlp(tmp_path / "3")[0].name == "2"


@pytest.mark.parametrize("mode", ["full", "limit"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    """Whatever cannot be written any more, the error is ours and no file is left."""
    ended = _run(mode, tmp_path)
    assert len(ended) > (8 if mode == "limit" else 20)
    assert set(ended[:-1]) == {9}
    assert ended[-1] == 0
    for number in range(1, len(ended)):
        directory = tmp_path / str(number) / "m"
        assert _check_whole(tmp_path / str(number), tmp_path / "key.pub") == [1]
        assert sorted(e.name for e in directory.iterdir()) == ["1", "config.pbtxt", "labels.txt"]


def test_a_full_disk_at_the_first_version_leaves_no_directory(tmp_path: Path) -> None:
    """Neither the directory of the model nor its config.pbtxt stays without a version."""
    ended = _run("full", tmp_path, versions=0)
    assert len(ended) > 20
    assert set(ended[:-1]) == {9}
    left = [path for n in range(1, len(ended)) for path in (tmp_path / str(n)).rglob("*")]
    assert left == []


def test_a_kill_at_the_first_version_shows_no_half_of_it(tmp_path: Path) -> None:
    """What is left is no version to a server, and the next export makes one."""
    ended = _run("kill", tmp_path, versions=0)
    for number in range(1, len(ended)):
        repository = tmp_path / str(number)
        try:
            assert _check_whole(repository, tmp_path / "key.pub") in ([], [1])
        except RepositoryError as error:
            assert "no such file" in str(error) or "holds no model" in str(error)  # noqa: PT017
        assert [m.name for m in _models(repository)] in ([], ["m"])
    assert publish_mlp(tmp_path / "30")[0].name == "1"


def _models(repository: Path) -> list[ModelSource]:
    try:
        return Repository(repository).scan()
    except RepositoryError:
        return []
