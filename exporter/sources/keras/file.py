"""A .keras file: loaded by Keras, on the backend that this process computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError
from exporter.sources.base import Opened, Request
from exporter.sources.keras import model as keras_model
from service.repository.manifest import sha256_of


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Load the file and open its model. Raises UnsafeArtefact, UsageError, ConversionFailed."""
    path = Path(request.source)
    model = _load(path, request)
    with keras_model.opened(replace(request, source=model)) as source:
        digest = {"file_sha256": sha256_of(path)}
        yield replace(source, provenance={**source.provenance, **digest})


def _load(path: Path, request: Request) -> Any:
    import keras  # noqa: PLC0415 (an extra)

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not request.trust_pickle)
    except Exception as error:  # Keras raises errors of every kind
        text = " ".join(str(error).split())
        if "safe_mode" in text or "unsafe" in text.lower():
            raise UnsafeArtefact(
                f"{path}: refused: it holds Python code (a Lambda layer), which would run. It was "
                "not loaded. If you made it, or trust who did, say --trust-pickle "
                "(trust_pickle=True)",
            ) from error
        if "Could not locate class" in text or "get_config" in text:
            raise UsageError(
                f"{path}: a class of yours is in it, which this process does not know: "
                f"{text[:200]}\n  Export the model itself: FILE.py:BUILDER with a function that "
                "builds it and loads its weights.",
            ) from error
        raise ConversionFailed(f"{path}: Keras does not load it: {text[:300]}") from error
