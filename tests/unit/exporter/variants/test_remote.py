"""A session in another process: answers, refusals and crashes."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from exporter.errors import ChildCrashed, CompressionFailed
from exporter.variants.remote import RemoteSession
from tests.unit.exporter.graphs import linear


def test_it_answers_as_a_session_does_and_outlives_a_bad_run(tmp_path: Path) -> None:
    """Arrays come back by name; a run that ONNX Runtime refuses does not end the child."""
    with RemoteSession(linear(tmp_path / "m.onnx")) as session:
        assert session.inputs == ("x",)
        first = session.run({"x": np.ones((3, 16), np.float32)})
        with pytest.raises(CompressionFailed, match=r"running m\.onnx failed: .*[Ii]nvalid"):
            session.run({"x": np.ones((3, 15), np.float32)})
        second = session.run({"x": np.ones((3, 16), np.float32)})
    np.testing.assert_array_equal(first["y"], second["y"])


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """The reason is ONNX Runtime's own."""
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CompressionFailed, match=r"loading bad\.onnx failed"):
        RemoteSession(tmp_path / "bad.onnx")


def test_a_crash_is_an_error_with_the_signal(tmp_path: Path) -> None:
    """The caller lives on."""
    with RemoteSession(linear(tmp_path / "m.onnx")) as session:
        os.kill(session.pid, signal.SIGSEGV)
        with pytest.raises(ChildCrashed, match=r"running m\.onnx: .*crashed \(SIGSEGV\)"):
            session.run({"x": np.ones((3, 16), np.float32)})


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    """After the time that it was given."""
    with RemoteSession(linear(tmp_path / "m.onnx"), timeout_s=20) as session:
        os.kill(session.pid, signal.SIGSTOP)
        session.timeout_s = 0.05
        with pytest.raises(ChildCrashed, match=r"took longer than 0\.05 s"):
            session.run({"x": np.ones((3, 16), np.float32)})
