"""`#cloud-config-archive`: a YAML list of parts, each a text, or a mapping with `content` and what is known of it."""

from __future__ import annotations

from cloudboot.problem import Level, Mark, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.problem import Marks, Pointer

OWN_KEYS = ("content", "type", "filename", "launch-index")


class Item(NamedTuple):
    """One part of an archive. `type` is empty where none is given; `headers` are its other keys."""

    content: bytes
    type: str
    name: str
    launch_index: int | None
    headers: dict[str, str]
    mark: Mark


def items(text: str, source: str) -> tuple[list[Item], list[Problem]]:
    """Read an archive. An item that is no part is reported and left out, alone."""
    from cloudboot.userdata.document import load

    document = load(text, source)
    problems = list(document.problems)
    if document.value is None:
        return [], problems
    if not isinstance(document.value, list):
        place = document.marks.get((), Mark(source, 1, 1))
        problems.append(Problem(place, "must be a list of parts (- type: …): nothing of it is used"))
        return [], problems
    found = []
    for index, value in enumerate(document.value):
        item = _item(value, index, document.marks, problems)
        if item is not None:
            found.append(item)
    return found, problems


def _item(value: Any, index: int, marks: Marks, problems: list[Problem]) -> Item | None:
    def wrong(pointer: Pointer, told: str, level: Level = Level.ERROR) -> None:
        problems.append(Problem(marks.get(pointer, marks.get(pointer[:1], Mark("archive"))), told, level))

    mark = marks.get((index,), Mark("archive"))
    if isinstance(value, (str, bytes)):
        return Item(_bytes(value), _default_type(value), "", None, {}, mark)
    if not isinstance(value, dict):
        wrong((index,), f"[{index}]: must be a text or a mapping with `content`: left out")
        return None
    if "content" not in value:
        wrong((index,), f"[{index}]: has no `content`: left out")
        return None
    content = value["content"]
    if not isinstance(content, (str, bytes)):
        wrong((index, "content"), f"[{index}].content: must be a text: write `content: |`: [{index}] is left out")
        return None
    kind = value.get("type")
    if kind is not None and not isinstance(kind, str):
        wrong((index, "type"), f"[{index}].type: must be a MIME type: its content is looked at instead", Level.WARNING)
        kind = None
    launch_index = value.get("launch-index")
    if isinstance(launch_index, str) and launch_index.strip().isdecimal():
        launch_index = int(launch_index)
    if launch_index is not None and (not isinstance(launch_index, int) or isinstance(launch_index, bool)):
        wrong((index, "launch-index"), f"[{index}].launch-index: must be a whole number: the part is for all")
        launch_index = None
    return Item(
        _bytes(content),
        kind.partition(";")[0].strip().lower() if kind else _default_type(content),
        str(value.get("filename") or ""),
        launch_index,
        {key: " ".join(str(item).split()) for key, item in value.items() if key not in OWN_KEYS},
        mark,
    )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _default_type(value: str | bytes) -> str:
    return "application/octet-stream" if isinstance(value, bytes) else ""
