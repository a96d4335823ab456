"""Files of estimators: skops, which says what it holds, and pickles, which run what they hold."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, in_one_line
from exporter.sources.base import Opened, Request
from exporter.sources.kinds import require
from service.errors import listed
from service.repository.manifest import sha256_of


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Load the file, if that is safe or allowed, and open what is in it.

    Raises UnsafeArtefact, UsageError if it holds no model, ConversionFailed if it is broken.
    """
    from exporter.sources.detect import kind_of_object  # noqa: PLC0415 (it knows this module)

    path = Path(request.source)
    is_skops = path.suffix.lower() == ".skops"
    model = _read_skops(path, request) if is_skops else _unpickle(path, request)
    with kind_of_object(model, str(path)).opened(replace(request, source=model)) as source:
        digest = {"file_sha256": sha256_of(path)}
        yield replace(source, provenance={**source.provenance, **digest})


def _read_skops(path: Path, request: Request) -> Any:
    require("a .skops file", ("skops",), "classical")
    from skops import io  # noqa: PLC0415 (an extra)

    try:
        unknown = io.get_untrusted_types(file=path)
    except Exception as error:  # it reads a file that may hold anything
        raise ConversionFailed(f"{path}: skops does not read it: {in_one_line(error)}") from error
    refused = sorted(set(unknown) - set(request.allow_globals))
    if refused and not request.trust_pickle:
        raise UnsafeArtefact(
            f"{path}: refused: it holds {listed(refused)}, which skops does not know to be "
            "harmless. It was not loaded. Allow these names one by one with --allow-global NAME "
            "(allow_globals=), or trust the file with --trust-pickle",
        )
    try:
        return io.load(path, trusted=unknown)
    except Exception as error:  # it reads a file that may hold anything
        raise ConversionFailed(f"{path}: skops does not load it: {in_one_line(error)}") from error


def _unpickle(path: Path, request: Request) -> Any:
    if not request.trust_pickle:
        raise UnsafeArtefact(
            f"{path}: refused: a pickle can run any code when it is loaded. It was not loaded. If "
            "you made it, or trust who did, say --trust-pickle (trust_pickle=True); or save the "
            "model with skops.io.dump, XGBoost's save_model (.json) or LightGBM's (.txt)",
        )
    import joblib  # noqa: PLC0415 (comes with scikit-learn; reads plain pickles as well)

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # where the classes of a pickled model may be
    try:
        return joblib.load(path)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"SOURCE: {path}: a class in it cannot be imported from {here}: {error}; run this "
            "where its code is importable",
        ) from error
    except Exception as error:  # it reads a file that may hold anything
        raise ConversionFailed(
            f"{path}: not a pickle, or a broken one: {in_one_line(error)}"
        ) from error
