"""The messages of Penstock, in a descriptor pool apart from protobuf's global one.

The generated modules hold descriptors and no code of protoc's, which runs only with the protobuf
that it was made for and those of the next major version (docs/decisions/0019).
"""

from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()


def build(module: str, names: dict[str, Any], descriptor: bytes) -> FileDescriptor:
    """Put the messages and enums of a file into names, those of the module that is generated.

    descriptor: a serialised FileDescriptorProto; the files that it imports are built before.
    """
    file = POOL.AddSerializedFile(descriptor)
    for name, message in file.message_types_by_name.items():
        names[name] = _class(module, message)
    for name, enum in file.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    return file


def _class(module: str, descriptor: Descriptor) -> Any:
    """Return the class of a message, with those inside of it as its attributes."""
    kind = GetMessageClass(descriptor)
    kind.__module__ = module
    for name, nested in descriptor.nested_types_by_name.items():
        inner = _class(module, nested)
        if not hasattr(kind, name):  # protobuf in pure Python leaves that to its generated code
            setattr(kind, name, inner)
    return kind
