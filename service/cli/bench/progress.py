"""A line on the terminal that says how far a measurement is. Nothing where there is none."""

from typing import TextIO

from service.cli.bench.stability import Window

_CLEAR = "\r\x1b[K"


class Progress:
    """Writes over its own line. stream: usually stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._load = ""

    def begin(self, load: str, number: int, total: int) -> None:
        """Say which load is next."""
        self._load = f"load {load} ({number} of {total})"
        self._show(f"{self._load}: warming up")

    def window(self, number: int, window: Window) -> None:
        """Say what the latest window found."""
        self._show(
            f"{self._load}: window {number}, {window.per_second:,.0f} requests/s, "
            f"p99 {window.p99_s * 1e3:.3f} ms"
        )

    def end(self) -> None:
        """Leave no trace."""
        if self._is_shown:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def _show(self, text: str) -> None:
        if self._is_shown:
            self._stream.write(f"{_CLEAR}{text}")
            self._stream.flush()
