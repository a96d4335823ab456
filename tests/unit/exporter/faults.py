"""Publishes again and again, with a fault at each step in turn; run as a program.

    python -m tests.unit.exporter.faults MODE VERSIONS DIRECTORY

MODE kill: the process is killed at the n-th operation on a file; full: from the n-th on, nothing
can be created; limit: no file may grow beyond n * 400 bytes. DIRECTORY/n gets a repository with so
many versions in it, 0 or 1, and the attempt to publish another. The last line of stdout is a JSON
list: how each attempt ended.
"""

import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from exporter.cases import Case
from exporter.errors import ExportError
from exporter.flow import Proven
from exporter.model_config import config_of
from exporter.package import Contents, write_contents
from exporter.proof import Agreement
from exporter.publish import publish, staging
from exporter.report import Report, write_reports
from exporter.signing import PrivateKey
from service.repository.manifest import Axis, Tolerance
from service.tensors import FP32, TensorSpec
from tests.support.signed import write_keys
from tests.support.versions import GRAPH

_CREATING = ("open", "os.mkdir", "os.link", "tempfile.mkdtemp", "os.rename", "shutil.move")
_MOST = 200
_PUBLISHED, _REFUSED, _OTHER = 0, 9, 1


def publish_one(repository: Path, key: Path) -> None:
    """Publish a version with everything that one can have."""
    specs = (TensorSpec("X", FP32, (-1, 784)),), (TensorSpec("Y", FP32, (-1, 10)),)
    axes = (Axis("batch", {"X": 0}, 1, 16, (1, 16)),)
    case = Case(1, {"X": np.zeros((1, 784), np.float32)}, {"Y": np.ones((1, 10), np.float32)})
    with staging(repository, "m") as stage:
        model = stage.work / "model.onnx"
        try:
            model.write_bytes(b"a model of some size" * 200)
        except OSError:
            sys.exit(_REFUSED)  # not ours to report: sources write it
        proven = Proven(model, *specs, GRAPH, axes, Tolerance(), Agreement(()))
        contents = Contents("m", proven, [case], 21, 16, {"module": "a:b"},
                            labels=tuple("abcdefghij"), labels_of="Y")  # fmt: skip
        manifest = write_contents(stage, contents)
        write_reports(stage, Report(manifest, proven.agreement, {}))
        publish(stage, manifest, None, key=PrivateKey(key), config=config_of(manifest))


def attempt(mode: str, number: int, repository: Path, key: Path) -> int:
    """Publish with a fault, in a process of its own; return how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        _prepare(mode, number, repository)
        publish_one(repository, key)
    except ExportError as error:
        print(f"{mode} {number}: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        os._exit(_REFUSED)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    except BaseException as error:  # noqa: BLE001 (the parent is told that it was another)
        print(f"{mode} {number}: {error!r}", file=sys.stderr)  # noqa: T201
        os._exit(_OTHER)
    os._exit(_PUBLISHED)


def _prepare(mode: str, number: int, repository: Path) -> None:
    if mode == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number * 400, number * 400))
        return
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "ctypes.call_function" and not _concerns(repository, arguments):
            return
        seen += 1
        if seen < number:
            return
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event in _CREATING and not _only_reads(event, arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(watch)


def _concerns(repository: Path, arguments: tuple[Any, ...]) -> bool:
    return any(
        str(argument).startswith(str(repository))
        for argument in arguments
        if isinstance(argument, str | Path)
    )


def _only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def main() -> None:
    """Go through the faults until one attempt met none."""
    mode, versions, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    key, _ = write_keys(root)
    ended = []
    for number in range(1, _MOST):
        repository = root / str(number)
        for _ in range(versions):
            publish_one(repository, key)
        ended.append(attempt(mode, number, repository, key))
        if ended[-1] == _PUBLISHED:
            break
    print(json.dumps(ended))  # noqa: T201 (for the test)


if __name__ == "__main__":
    main()
