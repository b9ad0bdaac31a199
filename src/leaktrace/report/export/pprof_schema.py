"""The messages of pprof's profile.proto, described at run time.

The fields and their numbers are those of
https://github.com/google/pprof/blob/main/proto/profile.proto. There is no generated code, so any
version of the protobuf package fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

_PACKAGE = "perftools.profiles"

# Message: its fields as "NUMBER TYPE NAME"; "*" marks a repeated one. Texts are indices of the
# string table.
_MESSAGES: Mapping[str, tuple[str, ...]] = {
    "Profile": (
        "1 ValueType* sample_type",
        "2 Sample* sample",
        "3 Mapping* mapping",
        "4 Location* location",
        "5 Function* function",
        "6 string* string_table",
        "7 int64 drop_frames",
        "8 int64 keep_frames",
        "9 int64 time_nanos",
        "10 int64 duration_nanos",
        "11 ValueType period_type",
        "12 int64 period",
        "13 int64* comment",
        "14 int64 default_sample_type",
        "15 int64 doc_url",
    ),
    "ValueType": ("1 int64 type", "2 int64 unit"),
    "Sample": ("1 uint64* location_id", "2 int64* value", "3 Label* label"),
    "Label": ("1 int64 key", "2 int64 str", "3 int64 num", "4 int64 num_unit"),
    "Mapping": (
        "1 uint64 id",
        "2 uint64 memory_start",
        "3 uint64 memory_limit",
        "4 uint64 file_offset",
        "5 int64 filename",
        "6 int64 build_id",
        "7 bool has_functions",
        "8 bool has_filenames",
        "9 bool has_line_numbers",
        "10 bool has_inline_frames",
    ),
    "Location": (
        "1 uint64 id",
        "2 uint64 mapping_id",
        "3 uint64 address",
        "4 Line* line",
        "5 bool is_folded",
    ),
    "Line": ("1 uint64 function_id", "2 int64 line", "3 int64 column"),
    "Function": (
        "1 uint64 id",
        "2 int64 name",
        "3 int64 system_name",
        "4 int64 filename",
        "5 int64 start_line",
    ),
}
_TYPES = {
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
}


def new_profile() -> Any:  # noqa: ANN401 (its class is made at run time)
    """An empty message perftools.profiles.Profile."""
    return _PROFILE()


def _profile_class() -> Any:  # noqa: ANN401
    file = FileDescriptorProto(name="profile.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in fields:
            number, kind, field_name = line.split()
            field = message.field.add(name=field_name, number=int(number))
            is_repeated = kind.endswith("*")
            field.label = (
                FieldDescriptorProto.LABEL_REPEATED
                if is_repeated
                else FieldDescriptorProto.LABEL_OPTIONAL
            )
            plain = kind.removesuffix("*")
            if plain in _TYPES:
                field.type = _TYPES[plain]
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{plain}"
    # A pool of its own: another module of this process may know the same messages.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Profile"))


_PROFILE = _profile_class()
