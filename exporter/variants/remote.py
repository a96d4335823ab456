"""A session in a process of its own, which may crash without taking the caller along.

Arrays go back and forth as npz without pickles. The child imports neither torch nor onnx.
"""

import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

import numpy as np

from exporter.errors import ChildCrashed, CompressionFailed
from service.repository.manifest import SessionOptions
from service.tensors import BY_ONNX, Tensors, TensorSpec

_LENGTH: Final = struct.Struct("<Q")
_OK: Final = b"+"
_PROGRAM: Final = "import sys; from exporter.variants.remote import serve; serve(int(sys.argv[1]))"
_GRACE_S: Final = 5.0  # for a child that was told to end


class RemoteSession:
    """A model loaded in a child process; a context manager that ends the child.

    input_specs, output_specs: its signature as ONNX Runtime sees it, free extents -1.
    timeout_s: for the load and for each run; may be changed.
    """

    def __init__(
        self, path: Path, options: SessionOptions | None = None, *, timeout_s: float = 600.0
    ) -> None:
        """Load the file. timeout_s: for the load and for each run.

        Raises CompressionFailed if ONNX Runtime refuses it, ChildCrashed if that ends the child
        or takes too long.
        """
        self._name = path.name
        self.timeout_s = timeout_s
        read_end, write_end = os.pipe()
        root = str(Path(__file__).resolve().parents[2])
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-c", _PROGRAM, str(write_end)],
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(write_end,),
            )
        finally:
            os.close(write_end)
        # Popen's own stdin may be None for the type checker; it is a pipe here.
        self._questions = cast("BinaryIO", self._process.stdin)
        self._answers = os.fdopen(read_end, "rb", buffering=0)
        job = {"path": str(path.resolve()), "options": asdict(options or SessionOptions())}
        try:
            loaded = json.loads(self._ask(json.dumps(job).encode(), "loading"))
            self.input_specs, self.output_specs = (
                tuple(_spec(*node) for node in nodes) for nodes in loaded
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs."""
        return tuple(spec.name for spec in self.input_specs)

    @property
    def pid(self) -> int:
        """Return the process id of the child."""
        return self._process.pid

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name. Raises CompressionFailed or ChildCrashed as a load does."""
        return _unpack(self._ask(_pack(inputs), "running"))

    def close(self) -> None:
        """End the child."""
        with suppress(BrokenPipeError):  # the child may be gone
            self._questions.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _ask(self, question: bytes, doing: str) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        try:
            _write(self._questions, question)
            status = self._read(1, deadline)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
            answer = self._read(length, deadline)
        except (BrokenPipeError, EOFError):
            raise ChildCrashed(f"{doing} {self._name}: {self._end()}") from None
        except TimeoutError:
            self._process.kill()
            raise ChildCrashed(
                f"{doing} {self._name} took longer than {self.timeout_s:g} s",
            ) from None
        if status != _OK:
            raise CompressionFailed(f"{doing} {self._name} failed: {answer.decode()}")
        return answer

    def _read(self, count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError
            part = self._answers.read(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _end(self) -> str:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "ONNX Runtime's process stopped answering"
        if code < 0:
            return f"ONNX Runtime crashed ({signal.Signals(-code).name})"
        return f"ONNX Runtime's process ended with code {code}"


def serve(answers: int) -> None:
    """Load the model that the first message names and answer runs until stdin ends."""
    with os.fdopen(answers, "wb") as out:
        questions = sys.stdin.buffer
        session: Any = None
        while (question := _read_message(questions)) is not None:
            try:
                if session is None:
                    session = _load(json.loads(question))
                    answer = json.dumps(_signature(session)).encode()
                else:
                    answer = _run(session, _unpack(question))
                out.write(_OK)
            except Exception as error:  # noqa: BLE001 (whatever it is, the parent reports it)
                answer = str(error).strip().split("\n", 1)[0].encode()
                out.write(b"-")
            _write(out, answer)


def _load(job: Mapping[str, Any]) -> Any:
    from exporter.bench import Entry, load  # noqa: PLC0415 (the parent needs no runtime)

    options = SessionOptions(
        job["options"]["graph_level"], tuple(job["options"]["disabled_optimizers"])
    )
    return load(Entry(Path(job["path"]), options), threads=1)


def _signature(session: Any) -> list[list[tuple[str, str, list[Any]]]]:
    return [
        [(node.name, node.type, list(node.shape)) for node in nodes]
        for nodes in (session.get_inputs(), session.get_outputs())
    ]


def _spec(name: str, kind: str, shape: Sequence[Any]) -> TensorSpec:
    if kind not in BY_ONNX:
        raise CompressionFailed(f"'{name}' is {kind}, which inference requests cannot carry")
    extents = tuple(extent if isinstance(extent, int) else -1 for extent in shape)
    return TensorSpec(name, BY_ONNX[kind], extents)


def _run(session: Any, inputs: Tensors) -> bytes:
    names = [output.name for output in session.get_outputs()]
    return _pack(dict(zip(names, session.run(names, inputs), strict=True)))


def _pack(tensors: Tensors) -> bytes:
    # Keys are places, not names: a name may hold what a zip entry may not.
    buffer = io.BytesIO()
    arrays = {str(index): array for index, array in enumerate(tensors.values())}
    np.savez(buffer, allow_pickle=False, names=np.array(list(tensors), np.str_), **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> Tensors:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {str(name): archive[str(index)] for index, name in enumerate(archive["names"])}


def _write(stream: Any, message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def _read_message(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return stream.read(_LENGTH.unpack(head)[0])
