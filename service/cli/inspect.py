"""`penstock inspect`: a repository, one model, an .onnx file or a running server, described."""

import argparse
import json
import logging
from pathlib import Path
from typing import Final

from service.app.loader import ModelLoader
from service.cli.connection import add_tls_flags, credentials
from service.cli.description import FAILED, READY, Description
from service.cli.live import describe_server
from service.cli.usage import UsageError
from service.client import Client
from service.config import Settings
from service.errors import ConfigError, LoadError
from service.inference.model import Model
from service.lifecycle.version_policy import served_versions
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, Repository, VersionSource
from service.repository.manifest import Manifest, read_manifest
from service.repository.model_config import PYTHON

_CLOSE_S: Final = 5.0  # nothing is in flight when a model is closed here
_NOT_EXPORTED: Final = "exported without a batch (manifest.json)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is described, and how."""
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="repository, directory of one model or .onnx file; with --live: name of a model",
    )
    parser.add_argument("--live", metavar="ADDRESS", help="describe a running server instead")
    parser.add_argument("--json", action="store_true", help="write JSON, a list of versions")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)"
    )
    parser.add_argument(
        "--allow-python-backend",
        action="store_true",
        help="run model.py of models with backend 'python', which loading them means",
    )
    add_tls_flags(parser)
    parser.epilog = "exit code: 0 all is well, 1 a version failed or no server answers, 2 usage"


def run(arguments: argparse.Namespace) -> int:
    """Describe the target. Raises UsageError, RepositoryError, ClientError."""
    if arguments.live:
        tls = credentials(arguments)
        with Client(arguments.live, credentials=tls, server_name=arguments.tls_name) as client:
            descriptions = describe_server(client, arguments.target or "")
        if not descriptions:
            name = arguments.target
            raise UsageError(f"the server at {arguments.live} has no model '{name}'")
    elif arguments.target:
        settings = Settings(
            arguments.target,
            device=arguments.device,
            allow_python_backend=arguments.allow_python_backend,
        )
        descriptions = _of_files(settings)
    else:
        raise UsageError("nothing to inspect: give TARGET, or --live HOST:PORT")
    if arguments.json:
        print(json.dumps([each.to_json() for each in descriptions], indent=2))  # noqa: T201
    else:
        print("\n\n".join(each.to_text() for each in descriptions))  # noqa: T201
    return 1 if any(each.state in FAILED for each in descriptions) else 0


def batching_of(model: Model, config: ModelConfig | None, manifest: Manifest | None) -> str:
    """Return whether a loaded version batches, up to how many rows, and who says so."""
    yes = f"up to {model.config.max_batch_size} rows: "
    if config is not None and (config.max_batch_size > 0 or config.input or config.output):
        if model.signature.batched:
            return yes + "config.pbtxt says so"
        return "no: config.pbtxt says max_batch_size 0, its default"
    if model.signature.batched and manifest is not None:
        return yes + "proved by the exporter (manifest.json)"
    if model.signature.batched:
        return yes + "axis 0 has one name in all tensors, and rows of a batch equal the rows alone"
    if model.sequences is not None and (rows := model.sequences.max_steps) > 1:
        return (
            f"steps of sequences, up to {rows} rows: their states have the batch on another axis "
            "than 0, and requests that bring states along run as they come"
        )
    return "no: " + (_obstacle(model) if manifest is None else _NOT_EXPORTED)


def _batching_of_code(model: Model) -> str:
    rows = f", of up to {model.config.max_batch_size} rows" if model.signature.batched else ""
    return f"no: a Python model gets one request at a time{rows}"


def _obstacle(model: Model) -> str:
    for spec in (*model.signature.inputs, *model.signature.outputs):
        if not spec.shape:
            return f"'{spec.name}' has no axis"
        if spec.shape[0] >= 0:
            return f"axis 0 of '{spec.name}' is fixed at {spec.shape[0]}"
    unproved = [note for note in model.notes if "batch" in note]
    return unproved[0] if unproved else "axis 0 has not one name in all tensors"


def _of_files(settings: Settings) -> list[Description]:
    # The description says all that the log would.
    logging.getLogger("service").addHandler(logging.NullHandler())
    loader = ModelLoader(settings)
    sources = Repository(Path(settings.repository)).scan()
    loader.plan(sources)
    return [description for source in sources for description in _of_source(loader, source)]


def _of_source(loader: ModelLoader, source: ModelSource) -> list[Description]:
    try:
        config = loader.read_config(source)
    except ConfigError as error:
        return [Description(source.name, "", "FAILED", str(error))]
    if not source.versions:
        reason = f"{source.directory}: no version (VERSION/model.onnx or model.py) in it"
        return [Description(source.name, "", "FAILED", reason)]
    policy = config.version_policy if config is not None else None
    wanted = served_versions(policy, [version.version for version in source.versions])
    left_out = (
        f"version_policy serves {wanted}"
        if policy is not None and policy.WhichOneof("policy_choice")
        else "only the newest is served; version_policy in config.pbtxt says otherwise"
    )
    return [
        _of_version(loader, version, config)
        if version.version in wanted
        else Description(source.name, str(version.version), "NOT SERVED", left_out)
        for version in source.versions
    ]


def _of_version(
    loader: ModelLoader, source: VersionSource, config: ModelConfig | None
) -> Description:
    version = str(source.version)
    try:
        model = loader.load(source, config)
        manifest = None if source.file is not None else read_manifest(source.directory)
    except LoadError as error:
        return Description(source.model, version, "FAILED", str(error))
    model.close(_CLOSE_S)
    return Description(  # loading has compared the digests
        source.model,
        version,
        READY,
        signature=model.signature,
        max_batch_size=model.config.max_batch_size,
        batching=_batching_of_code(model)
        if model.config.backend == PYTHON
        else batching_of(model, config, manifest),
        provider=model.provider,
        size_bytes=model.size_bytes,
        digests=f"ok ({len(manifest.files)} files)" if manifest else "none: no manifest.json",
        manifest=manifest,
        config=model.config,
    )
