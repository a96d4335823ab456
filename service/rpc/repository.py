"""The RPCs of the model repository: RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload."""

import re
from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

from service.errors import (
    InvalidRequest,
    LoadError,
    LoadFailed,
    NotPermitted,
    Unsupported,
    printable,
    shown,
)
from service.lifecycle.states import State, VersionStatus
from service.pb.grpc_service_pb2 import (
    ModelRepositoryParameter,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from service.repository.overrides import PRIVATE
from service.rpc.messages import parse
from service.rpc.methods import Answer, Slow
from service.rpc.wire import text_field

_CONTROL: Final = "load or unload models"
_FILE: Final = "file:"
_MAX_REASON: Final = 512  # characters
_PRIVATE_PATH: Final = re.compile(rf"/\S*/{PRIVATE}[^/\s]*/")
_DIRECTORIES: Final = re.compile(r"(?<![\w./\-])/(?:[^\s/'\"]+/)+")  # of any absolute path
_MODEL_NAME: Final = 2  # number of the field
_REPOSITORY_NAME: Final = 1  # KServe's own clients have the model's name in it
R = TypeVar("R", RepositoryModelLoadRequest, RepositoryModelUnloadRequest)


class Control(Protocol):
    """What loads and unloads models; see lifecycle.control.ModelControl."""

    def load(
        self, name: str, config: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Load a model, or load it again if it has changed."""

    def unload(self, name: str) -> None:
        """Unload a model."""

    def index(self) -> list[VersionStatus]:
        """Return the state of every version that is known, and of models never loaded."""


class RepositoryService:
    """Every method takes a serialised request and returns a serialised response."""

    def __init__(self, control: Control, *, is_explicit: bool, hidden: str) -> None:
        """is_explicit: callers may load and unload. hidden: a path that no reason shall tell."""
        self._control = control
        self._is_explicit = is_explicit
        self._hidden = hidden

    @property
    def answers(self) -> Mapping[str, Answer | Slow]:
        """Return what answers each RPC; see methods.Service."""
        index = Slow(self.index, lambda _: b"", "list the repository")
        if not self._is_explicit:
            refused = dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), _refuse)
            return {"RepositoryIndex": index, **refused}
        return {
            "RepositoryIndex": index,
            "RepositoryModelLoad": Slow(self.load, _model_of, _CONTROL),
            "RepositoryModelUnload": Slow(self.unload, _model_of, _CONTROL),
        }

    def index(self, message: bytes) -> bytes:
        """Answer RepositoryIndex. Raises Unsupported for a repository by name."""
        request = parse(RepositoryIndexRequest, message)
        if request.repository_name:
            raise Unsupported("'repository_name' specification is not supported")
        response = RepositoryIndexResponse()
        for status in self._control.index():
            if status.state is State.READY or not request.ready:
                response.models.add(
                    name=status.model,
                    version=str(status.version) if status.version else "",
                    state=status.state.index_name,
                    reason=self._told(status.reason),
                )
        return response.SerializeToString()

    def load(self, message: bytes) -> bytes:
        """Answer RepositoryModelLoad. Raises RequestError."""
        request = parse(RepositoryModelLoadRequest, message)
        name = _checked_name(request)
        config: str | None = None
        files: dict[str, bytes] = {}
        for key, parameter in sorted(request.parameters.items()):
            if key == "config":
                _check_kind(f"load parameter '{key}'", parameter, "string_param")
                config = parameter.string_param
            elif key.startswith(_FILE):
                _check_kind(f"load parameter '{shown(key)}'", parameter, "bytes_param")
                files[key.removeprefix(_FILE)] = parameter.bytes_param
            else:
                raise InvalidRequest(f"unrecognized load parameter '{shown(key)}'.")
        try:
            self._control.load(name, config, files)
        except LoadError as error:
            raise LoadFailed(name, self._told(str(error))) from error
        return RepositoryModelLoadResponse().SerializeToString()

    def unload(self, message: bytes) -> bytes:
        """Answer RepositoryModelUnload: a model that is not loaded is no error.

        Nothing depends on a model here, so `unload_dependents` has nothing to do.
        """
        request = parse(RepositoryModelUnloadRequest, message)
        name = _checked_name(request)
        if "unload_dependents" in request.parameters:
            parameter = request.parameters["unload_dependents"]
            _check_kind("'unload_dependents' parameter", parameter, "bool_param")
        self._control.unload(name)
        return RepositoryModelUnloadResponse().SerializeToString()

    def _told(self, reason: str) -> str:
        below = _PRIVATE_PATH.sub("", reason.replace(self._hidden, ""))
        return printable(_DIRECTORIES.sub("", below)[:_MAX_REASON])[:_MAX_REASON]


def _refuse(_message: bytes) -> bytes:
    # Triton's text first, also where nothing is polled: clients look for it.
    raise NotPermitted(
        "explicit model load / unload is not allowed if polling is enabled; "
        "penstock serve --model-control explicit allows it"
    )


def _model_of(message: bytes) -> bytes:
    return text_field(message, _MODEL_NAME) or text_field(message, _REPOSITORY_NAME)


def _checked_name(request: R) -> str:
    name = request.model_name or request.repository_name
    if not name.strip():
        raise InvalidRequest("Model name cannot be empty. Please enter a valid name to deploy.")
    if ".." in name or "/" in name:
        raise InvalidRequest("model name must not contain path traversal characters")
    return name


def _check_kind(what: str, parameter: ModelRepositoryParameter, kind: str) -> None:
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidRequest(f"invalid value type for {what}, expected {kind}.")
