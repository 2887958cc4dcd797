"""Classes of protobuf messages from a schema in JSON: the toolkit's specs are such messages, written as text.

protobuf itself reads the text. A schema is a mapping of message names to lists of fields, each a mapping with "name", "type" (a
scalar, "message", "enum" or "map"), and where they apply "repeated", "message", "values" (of an enum), "key" and "value" (of a
map), "oneof".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.message import Message

_SCALARS = {"uint32": "UINT32", "int32": "INT32", "float": "FLOAT", "double": "DOUBLE", "bool": "BOOL", "string": "STRING"}


def message_classes(messages: Mapping[str, Sequence[Mapping[str, Any]]], package: str) -> dict[str, type[Message]]:
    """Message classes by the schema's names; `package` is a name of its own for each schema."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=message_name(name))
        for number, field in enumerate(fields, 1):
            _add_field(message, field, number, package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message_name(name)}")) for name in messages
    }


def message_name(name: str) -> str:
    """The name of a message's descriptor, by that in the schema."""
    return name.replace(".", "_")


def _add_field(message: descriptor_pb2.DescriptorProto, field: Mapping[str, Any], number: int, package: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    added = message.field.add(name=field["name"], number=number, label=kinds.LABEL_OPTIONAL)
    if field.get("repeated") or field["type"] == "map":
        added.label = kinds.LABEL_REPEATED
    if field["type"] == "map":
        entry = message.nested_type.add(name=f"{_camel(field['name'])}Entry")
        entry.options.map_entry = True
        for i, side in enumerate(("key", "value"), 1):
            _set_type(entry.field.add(name=side, number=i, label=kinds.LABEL_OPTIONAL), field[side], package)
        added.type, added.type_name = kinds.TYPE_MESSAGE, f".{package}.{message.name}.{entry.name}"
    elif field["type"] == "enum":
        enum = message.enum_type.add(name=f"{_camel(field['name'])}Enum")
        for value, i in field["values"].items():
            enum.value.add(name=value, number=i)
        added.type, added.type_name = kinds.TYPE_ENUM, f".{package}.{message.name}.{enum.name}"
    else:
        _set_type(added, field.get("message", field["type"]), package)
    if "oneof" in field:
        names = [x.name for x in message.oneof_decl]
        if field["oneof"] not in names:
            message.oneof_decl.add(name=field["oneof"])
            names.append(field["oneof"])
        added.oneof_index = names.index(field["oneof"])


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str, package: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    if kind in _SCALARS:
        field.type = getattr(kinds, f"TYPE_{_SCALARS[kind]}")
    else:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{message_name(kind)}"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
