"""Server reflection, v1 and v1alpha: grpcurl and its like ask here for the schema."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from service.pb import reflection_v1_pb2, reflection_v1alpha_pb2
from service.pb.pool import POOL
from service.transport.seam import Call, Code

VERSIONS: Final = {"v1": reflection_v1_pb2, "v1alpha": reflection_v1alpha_pb2}


class Reflection:
    """One ServerReflectionInfo call. Its questions are answered from our descriptor pool."""

    def __init__(self, version: str, services: Sequence[str], call: Call) -> None:
        self._messages: Any = VERSIONS[version]
        self._services = services
        self._call = call

    def message(self, ticket: int, message: bytes) -> None:
        """Answer one question."""
        try:
            request = self._messages.ServerReflectionRequest.FromString(message)
        except DecodeError:
            self._call.finish(
                Code.INVALID_ARGUMENT, "malformed request: not a ServerReflectionRequest"
            )
            return
        response = self._messages.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        self._answer(request, response)
        self._call.answer(ticket, response.SerializeToString())

    def half_closed(self) -> None:
        """End the call."""
        self._call.finish(Code.OK)

    def cancelled(self) -> None:
        """Do nothing: there is no state."""

    def drain(self) -> None:
        """End the call: the server is going away."""
        self._call.finish(Code.UNAVAILABLE, "the server is shutting down")

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._file(response, POOL.FindFileByName, request.file_by_filename)
        elif kind == "file_containing_symbol":
            self._file(response, _file_containing, request.file_containing_symbol)
        elif kind == "all_extension_numbers_of_type":
            self._extensions(response, request.all_extension_numbers_of_type)
        else:  # no file here declares an extension
            self._error(response, Code.NOT_FOUND, "no such extension")

    def _file(self, response: Any, find: Callable[[str], FileDescriptor], name: str) -> None:
        try:
            file = find(name)
        except KeyError:
            self._error(response, Code.NOT_FOUND, "not found in the schema of this server")
            return
        for descriptor in _with_imports(file):
            response.file_descriptor_response.file_descriptor_proto.append(_serialised(descriptor))

    def _extensions(self, response: Any, name: str) -> None:
        try:
            POOL.FindMessageTypeByName(name)
        except KeyError:
            self._error(response, Code.NOT_FOUND, "not found in the schema of this server")
            return
        response.all_extension_numbers_response.base_type_name = name

    def _error(self, response: Any, code: Code, text: str) -> None:
        response.error_response.error_code = code
        response.error_response.error_message = text


def _file_containing(symbol: str) -> FileDescriptor:
    """Return the file that declares a symbol. Raises KeyError."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # it looks for everything but methods
        return POOL.FindMethodByName(symbol).containing_service.file


@cache
def _serialised(file: FileDescriptor) -> bytes:
    """Return a file with the JSON names that protoc leaves out of Python stubs."""
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    for message in proto.message_type:
        _name_fields(message, file.message_types_by_name[message.name])
    return proto.SerializeToString()


def _name_fields(proto: DescriptorProto, descriptor: Descriptor) -> None:
    for field in proto.field:
        field.json_name = descriptor.fields_by_name[field.name].json_name
    for nested in proto.nested_type:
        _name_fields(nested, descriptor.nested_types_by_name[nested.name])


def _with_imports(file: FileDescriptor) -> list[FileDescriptor]:
    """Return a file behind everything that it imports, each once."""
    ordered: dict[str, FileDescriptor] = {}

    def visit(descriptor: FileDescriptor) -> None:
        for imported in descriptor.dependencies:
            visit(imported)
        ordered.setdefault(descriptor.name, descriptor)

    visit(file)
    return list(ordered.values())
