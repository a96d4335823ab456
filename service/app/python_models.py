"""From model.py to a model that serves: allowed, imported, made, scheduled."""

import logging
import time
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
from service.repository.labels import read_labels
from service.repository.layout import PYTHON_FILE, VersionSource
from service.repository.manifest import Manifest
from service.repository.signature import declared, normalised
from service.runtime.python.instance import PythonInstance
from service.runtime.python.modules import ModelModule

_LOG = logging.getLogger(__name__)


def python_file(source: VersionSource, config: ModelConfig) -> Path:
    """Return the file with the code of a version."""
    return source.directory / (config.default_model_filename or PYTHON_FILE)


def check_allowed(source: VersionSource, config: ModelConfig, settings: Settings) -> None:
    """Refuse to run code that nobody asked for. Raises LoadError."""
    if not settings.allow_python_backend:
        raise LoadError(
            f"{python_file(source, config)}: backend 'python' runs this file as part of the "
            "server, which is off; start with --allow-python-backend if you trust whoever writes "
            "to the repository"
        )


def load_python(
    source: VersionSource,
    config: ModelConfig,
    settings: Settings,
    manifest: Manifest | None,
    notes: list[str],
) -> Model:
    """Return the version, with all its instances made. Raises LoadError with the reason.

    manifest: lists the files that may be run; without one all beside model.py may.
    """
    started = time.monotonic()
    file, version = python_file(source, config), str(source.version)
    spec = declared(config)
    full = normalised(source.model, spec, config, on_gpu=False, instances=settings.instances)
    decoupled = config.model_transaction_policy.decoupled
    instances = sum(group.count for group in full.instance_group)
    labels = read_labels(source.model_directory, source.directory, config, manifest)
    listed = manifest.files if manifest is not None else None
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
        "model %s version %s is ready: python, instances: %d, %s, loaded in %.2f s",
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
        labels=labels,
    )
