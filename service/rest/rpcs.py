"""The paths of the protocol that stand for an RPC: how its request is made, and its reply shown."""

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest,
    LogSettingsRequest,
    LogSettingsResponse,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerMetadataRequest,
    ServerMetadataResponse,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    TraceSettingRequest,
    TraceSettingResponse,
)
from service.rest.exchange import HttpRequest, off_loop
from service.rest.parse import kind_of, member, parse_object
from service.rest.plain import plain
from service.rest.reply import Reply, json_reply
from service.rest.routes import Handler
from service.rpc.methods import INFERENCE

Names: TypeAlias = Mapping[str, str]
Fields: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str, bytes, HttpRequest], Awaitable[bytes]]  # see call.Asker

MODEL: Final = "v2/models/{model}"
VERSION: Final = "v2/models/{model}/versions/{version}"
_FILE: Final = "file:"
_MAX_UINT32: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Rpc:
    """A page that is an RPC.

    method: HTTP's. request: from the names in the path and the members of the body.
    """

    method: str
    paths: tuple[str, ...]
    name: str
    request: Callable[[Names, Fields], Message]
    reply: Callable[[bytes], Reply]


def rpc_handler(rpc: Rpc, ask: Ask) -> Handler:
    """Return the handler of an RPC's page."""
    method = f"/{INFERENCE}/{rpc.name}"

    async def handle(request: HttpRequest, names: Names) -> Reply:
        message = await off_loop(len(request.body), _message, rpc, names, request.body)
        return rpc.reply(await ask(method, message, request))

    return handle


def _message(rpc: Rpc, names: Names, body: bytes) -> bytes:
    return rpc.request(names, parse_object(body) if body else {}).SerializeToString()


def _of_model(kind: Callable[..., Message]) -> Callable[[Names, Fields], Message]:
    return lambda names, _: kind(name=names.get("model", ""), version=names.get("version", ""))


def _of_region(kind: Callable[..., Message]) -> Callable[[Names, Fields], Message]:
    return lambda names, _: kind(name=names.get("region", ""))


def _server_metadata(reply: bytes) -> Reply:
    return json_reply(plain(ServerMetadataResponse.FromString(reply), whole=True))


def _model_metadata(reply: bytes) -> Reply:
    metadata = plain(ModelMetadataResponse.FromString(reply), whole=True)
    if not metadata["properties"]:
        del metadata["properties"]  # Open Inference Protocol has them, Triton's clients do not
    return json_reply(metadata)


def _model_config(reply: bytes) -> Reply:
    return json_reply(plain(ModelConfigResponse.FromString(reply).config, whole=True))


def _statistics(reply: bytes) -> Reply:
    return json_reply(plain(ModelStatisticsResponse.FromString(reply), whole=True))


def _index_request(_names: Names, fields: Fields) -> Message:
    return RepositoryIndexRequest(
        repository_name=member(fields, "repository_name", str, "the request", ""),
        ready=member(fields, "ready", bool, "the request", default=False),
    )


def _index(reply: bytes) -> Reply:
    return json_reply([plain(model) for model in RepositoryIndexResponse.FromString(reply).models])


def _nothing(_reply: bytes) -> Reply:
    return json_reply({})


def _load_request(names: Names, fields: Fields) -> Message:
    request = RepositoryModelLoadRequest(model_name=names["model"])
    for key, value in member(fields, "parameters", dict, "the request", {}).items():
        if key.startswith(_FILE):
            contents = _base64(value, f"parameter '{shown(key)}'")
            request.parameters[key].bytes_param = contents
        else:
            _set_repository(request.parameters[key], key, value)
    return request


def _unload_request(names: Names, fields: Fields) -> Message:
    request = RepositoryModelUnloadRequest(model_name=names["model"])
    for key, value in member(fields, "parameters", dict, "the request", {}).items():
        _set_repository(request.parameters[key], key, value)
    return request


def _set_repository(parameter: Any, key: str, value: object) -> None:
    if type(value) is bool:
        parameter.bool_param = value
    elif type(value) is int and abs(value) < 1 << 63:
        parameter.int64_param = value
    elif type(value) is str:
        parameter.string_param = value
    else:
        raise InvalidRequest(
            f"parameter '{shown(key)}' is {kind_of(value)}, expected a boolean, a whole number or "
            "a string"
        )


def _register_system(names: Names, fields: Fields) -> Message:
    return SystemSharedMemoryRegisterRequest(
        name=names["region"],
        key=_needed(fields, "key", str),
        offset=_size(fields.get("offset", 0), "offset"),
        byte_size=_size(_needed(fields, "byte_size", int), "byte_size"),
    )


def _register_cuda(names: Names, fields: Fields) -> Message:
    handle = _needed(fields, "raw_handle", dict)
    return CudaSharedMemoryRegisterRequest(
        name=names["region"],
        raw_handle=_base64(handle.get("b64"), "'b64' of raw_handle"),
        device_id=_size(_needed(fields, "device_id", int), "device_id"),
        byte_size=_size(_needed(fields, "byte_size", int), "byte_size"),
    )


def _system_regions(reply: bytes) -> Reply:
    regions = SystemSharedMemoryStatusResponse.FromString(reply).regions
    return json_reply([plain(regions[name], whole=True) for name in sorted(regions)])


def _cuda_regions(reply: bytes) -> Reply:
    regions = CudaSharedMemoryStatusResponse.FromString(reply).regions
    return json_reply([plain(regions[name], whole=True) for name in sorted(regions)])


def _trace_request(names: Names, fields: Fields) -> Message:
    request = TraceSettingRequest(model_name=names.get("model", ""))
    for key, value in fields.items():
        values = value if type(value) is list else [] if value is None else [value]
        setting = request.settings[key]
        for one in values:
            if type(one) not in (str, int):
                raise InvalidRequest(
                    f"setting '{shown(key)}' is {kind_of(one)}, expected a string, an array of "
                    "strings, or null for what it is without being set"
                )
            setting.value.append(str(one))
    return request


def _trace_settings(reply: bytes) -> Reply:
    settings = TraceSettingResponse.FromString(reply).settings
    shown_settings: Fields = {}
    for key in sorted(settings):
        values = list(settings[key].value)
        is_list = key == "trace_level" or len(values) != 1
        shown_settings[key] = values if is_list else values[0]
    return json_reply(shown_settings)


def _log_request(_names: Names, fields: Fields) -> Message:
    request = LogSettingsRequest()
    for key, value in fields.items():
        setting = request.settings[key]
        if type(value) is bool:
            setting.bool_param = value
        elif type(value) is int and 0 <= value <= _MAX_UINT32:
            setting.uint32_param = value
        elif type(value) is str:
            setting.string_param = value
        else:
            raise InvalidRequest(
                f"setting '{shown(key)}' is {kind_of(value)}, expected a boolean, a natural number "
                "or a string"
            )
    return request


def _log_settings(reply: bytes) -> Reply:
    settings = LogSettingsResponse.FromString(reply).settings
    values = {
        key: getattr(settings[key], kind)
        for key in sorted(settings)
        if (kind := settings[key].WhichOneof("parameter_choice"))
    }
    return json_reply(values)


def _needed(fields: Fields, key: str, kind: type) -> Any:
    value = member(fields, key, kind, "the request")
    if value is None:
        raise InvalidRequest(f"the request has no '{key}'")
    return value


def _size(value: object, key: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        got = value if type(value) is int else kind_of(value)
        raise InvalidRequest(f"'{key}' is {shown(str(got))}, expected a natural number")
    return value


def _base64(value: object, where: str) -> bytes:
    if type(value) is not str:
        raise InvalidRequest(f"{where} is {kind_of(value)}, expected a string in base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:  # binascii.Error is one
        raise InvalidRequest(f"{where} is not base64: {error}") from None


_SYSTEM: Final = "v2/systemsharedmemory"
_CUDA: Final = "v2/cudasharedmemory"
_TRACES: Final = ("v2/trace/setting", f"{MODEL}/trace/setting")


def _regional(base: str, verb: str) -> tuple[str, str]:
    return (f"{base}/{verb}", f"{base}/region/{{region}}/{verb}")


RPCS: Final = (
    Rpc("GET", ("v2",), "ServerMetadata", lambda *_: ServerMetadataRequest(), _server_metadata),
    Rpc("GET", (MODEL, VERSION), "ModelMetadata", _of_model(ModelMetadataRequest), _model_metadata),
    Rpc(
        "GET", (f"{MODEL}/config", f"{VERSION}/config"), "ModelConfig",
        _of_model(ModelConfigRequest), _model_config,
    ),
    Rpc(
        "GET", ("v2/models/stats", f"{MODEL}/stats", f"{VERSION}/stats"), "ModelStatistics",
        _of_model(ModelStatisticsRequest), _statistics,
    ),
    Rpc("POST", ("v2/repository/index",), "RepositoryIndex", _index_request, _index),
    Rpc(
        "POST", ("v2/repository/models/{model}/load",), "RepositoryModelLoad",
        _load_request, _nothing,
    ),
    Rpc(
        "POST", ("v2/repository/models/{model}/unload",), "RepositoryModelUnload",
        _unload_request, _nothing,
    ),
    Rpc(
        "GET", _regional(_SYSTEM, "status"), "SystemSharedMemoryStatus",
        _of_region(SystemSharedMemoryStatusRequest), _system_regions,
    ),
    Rpc(
        "POST", (f"{_SYSTEM}/region/{{region}}/register",), "SystemSharedMemoryRegister",
        _register_system, _nothing,
    ),
    Rpc(
        "POST", _regional(_SYSTEM, "unregister"), "SystemSharedMemoryUnregister",
        _of_region(SystemSharedMemoryUnregisterRequest), _nothing,
    ),
    Rpc(
        "GET", _regional(_CUDA, "status"), "CudaSharedMemoryStatus",
        _of_region(CudaSharedMemoryStatusRequest), _cuda_regions,
    ),
    Rpc(
        "POST", (f"{_CUDA}/region/{{region}}/register",), "CudaSharedMemoryRegister",
        _register_cuda, _nothing,
    ),
    Rpc(
        "POST", _regional(_CUDA, "unregister"), "CudaSharedMemoryUnregister",
        _of_region(CudaSharedMemoryUnregisterRequest), _nothing,
    ),
    Rpc("GET", _TRACES, "TraceSetting", lambda n, _: _trace_request(n, {}), _trace_settings),
    Rpc("POST", _TRACES, "TraceSetting", _trace_request, _trace_settings),
    Rpc("GET", ("v2/logging",), "LogSettings", lambda *_: LogSettingsRequest(), _log_settings),
    Rpc("POST", ("v2/logging",), "LogSettings", _log_request, _log_settings),
)  # fmt: skip
