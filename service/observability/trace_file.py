"""The file of traces: a JSON array that is whole after every write, by a thread of its own."""

import errno
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any, BinaryIO, Final

from service.errors import SettingsError

_LOG = logging.getLogger(__name__)
_MAX_WAITING: Final = 1024  # traces
_MAX_BYTES: Final = 1 << 30  # of all files that one server writes
_JOIN_S: Final = 5.0

_Records = Sequence[Mapping[str, Any]]


class TraceFile:
    """Writes traces one after another; what cannot be written is left out and counted.

    With a frequency of n each n traces make a file of their own: PATH.0, PATH.1 and so on.
    """

    def __init__(self, path: str) -> None:
        """Raise SettingsError if nothing can be written there."""
        self._path = Path(path)
        if self._path.is_dir() or not os.access(self._path.absolute().parent, os.W_OK):
            raise SettingsError(f"--trace-file is '{path}', expected a file that can be written")
        self.dropped = 0  # traces
        self._left = _MAX_BYTES
        self._queue: Queue[tuple[_Records, int] | None] = Queue(_MAX_WAITING)
        self._lock = threading.Lock()  # guards _thread
        self._thread: threading.Thread | None = None
        self._whole: _Array | None = None  # this and what follows: by the thread alone
        self._part: _Array | None = None
        self._parts = 0
        self._has_warned = False

    def put(self, records: _Records, frequency: int) -> None:
        """Have a trace written; it is left out if the disk does not keep up."""
        try:
            self._queue.put_nowait((records, frequency))
        except Full:
            self.dropped += 1
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            with suppress(Full):
                self._queue.put(None, timeout=_JOIN_S)
            thread.join(_JOIN_S)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except OSError as error:
                self._drop(error.strerror or str(error))
        for array in (self._whole, self._part):
            if array is not None:
                array.close()

    def _write(self, records: _Records, frequency: int) -> None:
        texts = [json.dumps(record, separators=(",", ":")).encode() for record in records]
        self._left -= sum(map(len, texts))
        if self._left < 0:
            self._drop(f"more than {_MAX_BYTES} bytes")
            return
        if not frequency:
            if self._whole is None:
                self._whole = _Array(self._path)
            self._whole.append(texts)
            return
        if self._part is None:
            self._part = _Array(self._path.with_name(f"{self._path.name}.{self._parts}"))
            self._parts += 1
        self._part.append(texts)
        if self._part.count >= frequency:
            part, self._part = self._part, None  # also if it cannot be closed
            part.close()

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if not self._has_warned:
            self._has_warned = True
            _LOG.warning("traces are left out: %s: %s", self._path, reason)


class _Array:
    """A file that holds a JSON array. count: traces in it."""

    def __init__(self, path: Path) -> None:
        # What clients send may be in it: for nobody else's eyes.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        self._end = 0  # of the last element
        self.count = 0

    def append(self, elements: Sequence[bytes]) -> None:
        """Add the elements of one trace. Raises OSError, and leaves what was there before."""
        lead = b",\n" if self.count else b"[\n"
        text = lead + b",\n".join(elements)
        try:
            self._file.seek(self._end)
            if self._file.write(text + b"\n]\n") != len(text) + 3:
                raise OSError(errno.ENOSPC, "no space left for all of it")
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
                self._file.write(b"\n]\n" if self.count else b"")
            raise
        self._end += len(text)
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()
