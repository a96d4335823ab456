"""A first load of the exported file in a process of its own, because a load can crash.

Some valid FP16 models end the process inside ONNX Runtime (pre-norm transformer encoders, with
the graph optimisations that a server uses). It must not be the user's process, nor a server.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from exporter.errors import ConversionFailed
from service.repository.manifest import MODEL_FILE

_PROGRAM: Final = """
import sys
from pathlib import Path
from exporter.session import Session
Session(Path(sys.argv[1]))
"""
_TIMEOUT_S: Final = 600.0  # the largest models load in a minute


def try_loading(path: Path) -> None:
    """Load the file in a child process. Raises ConversionFailed if that crashes or hangs.

    A load that fails in an orderly way is left to the caller, who knows how to report it.
    """
    command = [sys.executable, "-c", _PROGRAM, str(path.resolve())]
    root = str(Path(__file__).resolve().parents[1])
    try:
        code = subprocess.run(  # noqa: S603 (our own program)
            command, cwd=root, capture_output=True, check=False, timeout=_TIMEOUT_S
        ).returncode
    except subprocess.TimeoutExpired:
        raise ConversionFailed(
            f"ONNX Runtime did not load the exported {MODEL_FILE} within {_TIMEOUT_S:.0f} s",
        ) from None
    if code < 0:
        raise ConversionFailed(
            f"ONNX Runtime crashed ({signal.Signals(-code).name}) when it loaded the exported "
            f"{MODEL_FILE}; a server would crash too. FP16 models are known for it: export the "
            "module in FP32, with .float()",
        )
