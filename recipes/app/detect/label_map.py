"""Label maps of TensorFlow's object detection API: class ids and names, as text (.pbtxt)."""

import pathlib

from app.cli import InputError, one_line

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

NAME = "label_map.pbtxt"  # beside a SavedModel
FIELDS = (("name", 1), ("id", 2), ("display_name", 4))  # of StringIntLabelMapItem; others are ignored
EXAMPLE = 'no line like item { id: 1 display_name: "person" } could be read'


def read(path: pathlib.Path) -> dict[int, str]:
    """Reads a label map: class id to display name or, without one, to name.

    Raises:
      InputError: if the file cannot be read, or has no item with an id and a name.
    """
    label_map = _message_class()()
    try:
        text_format.Parse(path.read_text(encoding="utf-8-sig"), label_map, allow_unknown_field=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"--labels {path}: cannot be read ({reason})") from error
    except text_format.ParseError as error:
        raise InputError(f"--labels {path}: not a label map ({one_line(error)}); {EXAMPLE}") from error
    names = {item.id: item.display_name or item.name for item in label_map.item if item.HasField("id")}
    names = {number: name for number, name in names.items() if name}
    if not names:
        raise InputError(f"--labels {path}: {EXAMPLE}")
    return names


def write(path: pathlib.Path, names: dict[int, str]) -> None:
    """Writes a label map of class ids and display names."""
    label_map = _message_class()()
    for number, name in names.items():
        label_map.item.add(id=number, display_name=name)
    path.write_text(text_format.MessageToString(label_map, as_utf8=True), encoding="utf-8")


def _message_class():
    """The message type StringIntLabelMap, with only the fields used here, so the API's package is not required."""
    file = descriptor_pb2.FileDescriptorProto(name="label_map.proto", package="cookbook", syntax="proto2")
    item, whole = file.message_type.add(name="Item"), file.message_type.add(name="LabelMap")
    field = descriptor_pb2.FieldDescriptorProto
    for name, number in FIELDS:
        kind = field.TYPE_INT32 if name == "id" else field.TYPE_STRING
        item.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    repeated = {"type": field.TYPE_MESSAGE, "type_name": ".cookbook.Item", "label": field.LABEL_REPEATED}
    whole.field.add(name="item", number=1, **repeated)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cookbook.LabelMap"))
