"""From model.py to a model that serves: allowed, imported, made, scheduled."""

import logging
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from google.protobuf import json_format

from service.config import Settings
from service.errors import LoadError
from service.inference.admission import SchedulerConfig
from service.inference.model import Model
from service.inference.policy import BatchPolicy
from service.inference.responses import ResponseEngine
from service.pb.model_config_pb2 import ModelConfig
from service.python_backend import Context
from service.repository.layout import PYTHON_FILE, VersionSource
from service.repository.overrides import PRIVATE
from service.repository.signature import declared, normalised
from service.runtime.python.instance import PythonInstance
from service.runtime.python.modules import ModelModule

_LOG = logging.getLogger(__name__)


def python_file(source: VersionSource, config: ModelConfig) -> Path:
    """Return the file with the code of a version."""
    return source.directory / (config.default_model_filename or PYTHON_FILE)


def check_allowed(source: VersionSource, config: ModelConfig, settings: Settings) -> None:
    """Refuse to run code that nobody asked for. Raises LoadError."""
    file = python_file(source, config)
    if not settings.allow_python_backend:
        raise LoadError(
            f"{file}: backend 'python' runs this file as part of the server, which is off; start "
            "with --allow-python-backend if you trust whoever writes to the repository"
        )
    if any(part.startswith(PRIVATE) for part in source.directory.parts):
        raise LoadError(
            f"model '{source.model}': backend 'python' runs files of the repository, never files "
            "that came with a request to load"
        )


def load_python(
    source: VersionSource,
    config: ModelConfig,
    settings: Settings,
    notes: list[str],
    listed: Collection[str] | None,
) -> Model:
    """Return the version, with all its instances made. Raises LoadError with the reason.

    listed: the files that may be run, of a manifest; None: all beside model.py.
    """
    started = time.monotonic()
    file, version = python_file(source, config), str(source.version)
    spec = declared(config)
    full = normalised(source.model, spec, config, on_gpu=False, instances=settings.instances)
    decoupled = config.model_transaction_policy.decoupled
    instances = sum(group.count for group in full.instance_group)
    module = ModelModule(file, source.model, version, listed)
    context = Context(
        source.model,
        version,
        source.directory,
        {name: value.string_value for name, value in config.parameters.items()},
        json_format.MessageToDict(full, preserving_proto_field_name=True),
    )
    engine = ResponseEngine(
        source.model,
        partial(PythonInstance, module.model_class, context, spec.signature, decoupled=decoupled),
        SchedulerConfig(
            BatchPolicy(max_rows=max(1, spec.max_batch_size)),
            instances=instances,
            queue_requests=settings.max_queue_requests,
            queue_bytes=settings.max_queue_mib << 20,
        ),
        decoupled=decoupled,
        on_closed=module.close,
    )
    engine.start()
    load_s = time.monotonic() - started
    _LOG.info(
        "model %s version %s is ready: python, %d instance(s), %s, loaded in %.2f s",
        source.model,
        version,
        instances,
        "any number of responses a request" if decoupled else "one answer a request",
        load_s,
    )
    return Model(
        name=source.model,
        version=version,
        signature=spec.signature,
        config=full,
        scheduler=engine,
        provider="python",
        size_bytes=file.stat().st_size,
        load_s=load_s,
        decoupled=decoupled,
        may_bundle=False,
        notes=tuple(notes),
    )
