"""A .pt file as SOURCE: a whole pickled module, a TorchScript program, a torch.export program.

What it is, its directory of members says. A pickle is loaded with `weights_only=True` and the
names that the user allowed, or as a whole if he trusts it; never the second because the first
failed.
"""

import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from exporter.errors import UsageError, WeightsError, in_one_line
from exporter.sources.base import Opened, Request
from exporter.sources.pytorch import program, script
from exporter.sources.pytorch.weights import members_of, read_torch
from service.repository.manifest import sha256_of


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Load the file, if that is safe or allowed, and open what is in it."""
    from exporter.sources.detect import kind_of_object  # noqa: PLC0415 (it knows this module)

    path = Path(request.source)
    members = members_of(path) if zipfile.is_zipfile(path) else []
    if any(name.startswith(("models/", "sample_inputs/")) for name in members):
        with program.opened(request) as source:
            yield source
        return
    if any(name.startswith("code/") for name in members):
        request = script.open_file(path, request)
    else:
        request = replace(request, source=_unpickle(path, request))
    with kind_of_object(request.source, str(path)).opened(request) as source:
        digest = {"file_sha256": sha256_of(path)}
        yield replace(source, provenance={**source.provenance, **digest})


def _unpickle(path: Path, request: Request) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # where the classes of a pickled module usually are
    trusted = request.trust_pickle
    content = _trusting(path) if trusted else read_torch(path, request.allow_globals)
    if isinstance(content, torch.nn.Module | torch.export.ExportedProgram):
        return content
    raise UsageError(
        f"SOURCE: {path} holds a {type(content).__name__}, not a module: if these are weights, say "
        "SOURCE that builds the module, and --weights with this file",
    )


def _trusting(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"SOURCE: {path}: a class in it cannot be imported from {Path.cwd()}: {error}; run "
            "this where the module's code is importable",
        ) from error
    except Exception as error:  # it reads a file that may hold anything
        raise WeightsError(f"{path}: torch cannot load it: {in_one_line(error)}") from error
