"""Convert a source and prove it, without publishing: in this process, so that it is fast."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.flow import Converted, Proven
from exporter.progress import silent
from exporter.sources import convert_here
from exporter.sources.base import Request
from exporter.verify import prove


def convert(source: Any, directory: Path | None = None, **options: Any) -> Converted:
    """Return what the exporter makes of a source; text is not given to a child process."""
    directory = directory or Path(tempfile.mkdtemp(prefix="penstock-test-"))
    request = replace(Request(str(source) if isinstance(source, Path) else source), **options)
    return convert_here(request, directory, progress=silent)


def proved(source: Any, directory: Path, **options: Any) -> tuple[Converted, Proven]:
    """Convert and prove at every size, as the pipeline does."""
    converted = convert(source, directory, **options)
    return converted, prove(converted, converted.model, None)
