"""Files of `key = value`, with or without `[sections]`: settings are set where they stand, every other line stays."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP = ""  # the part before the first section


def with_settings(text: str, wanted: Mapping[str, Mapping[str, str]]) -> str:
    """Return `text` with the wanted settings by section; what is new goes to the end of its section."""
    lines = text.splitlines()
    for section, settings in wanted.items():
        left = dict(settings)
        start, end = _place(lines, section)
        if start is None:
            lines += [""] * bool(lines and lines[-1].strip()) + [f"[{section}]"]
            start = end = len(lines)
        for at in range(start, end):
            key = _key(lines[at])
            if key in left:
                lines[at] = f"{key} = {left.pop(key)}"
        while end > start and not lines[end - 1].strip():
            end -= 1
        lines[end:end] = [f"{key} = {value}" for key, value in left.items()]
    return "".join(f"{line}\n" for line in lines)


def _place(lines: list[str], section: str) -> tuple[int | None, int]:
    """Return where a section's lines begin and end; None if there is no such section."""
    heads = [(at, line.strip()[1:-1]) for at, line in enumerate(lines) if line.strip().startswith("[")]
    ends = [*(at for at, _ in heads[1:]), len(lines)]
    if section == TOP:
        return 0, heads[0][0] if heads else len(lines)
    for (at, name), end in zip(heads, ends, strict=False):
        if name == section:
            return at + 1, end
    return None, len(lines)


def _key(line: str) -> str:
    plain = line.strip()
    return "" if plain.startswith(("#", ";")) or "=" not in plain else plain.partition("=")[0].strip()
