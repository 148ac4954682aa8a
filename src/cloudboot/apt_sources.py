"""Sources of apt as text, in both styles: rendered, suites disabled, entries added. Pure."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.distro import Distro

POCKETS = {name: f"$RELEASE-{name}" for name in ("updates", "backports", "security", "proposed")} | {
    "release": "$RELEASE"
}
DISABLED = "# disabled by cloudboot (apt.disable_suites): "


def is_deb822(text: str) -> bool:
    """Tell the style of a text: fields (`Types: deb`), or a source in each line (`deb URI suite component`)."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return any(line.lower().startswith(("types:", "uris:", "suites:")) for line in lines)


def filled_in(text: str, names: Mapping[str, str]) -> str:
    """Put values in place of `$NAME` and `${NAME}`; other names stay."""
    import re

    def value(match: re.Match[str]) -> str:
        return names.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def standard(distro: Distro, mirrors: Mapping[str, str], keys: Mapping[str, str]) -> str:
    """Return the distribution's own sources from these mirrors (PRIMARY, SECURITY), in the style of its file.

    keys: keyrings for PRIMARY and SECURITY where they are not the distribution's; fields name them, lines do not.
    """
    apt, name = distro.apt, distro.codename
    rows = [
        (mirrors["PRIMARY"], [name, f"{name}-updates", f"{name}-backports"], keys.get("PRIMARY")),
        (mirrors["SECURITY"], [f"{name}-security"], keys.get("SECURITY") or keys.get("PRIMARY")),
    ]
    head = "# Written by cloudboot (apt).\n"
    if not apt.path.endswith(".sources"):
        lines = [
            f"{kind} {uri} {suite} {apt.components}\n"
            for uri, suites, _ in rows
            for suite in suites
            for kind in apt.kinds.split()
        ]
        return head + "".join(lines)
    blocks = [
        f"Types: {apt.kinds}\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: {apt.components}\n"
        f"Signed-By: {key or apt.keyring}\n"
        for uri, suites, key in rows
    ]
    return head + "\n".join(blocks)


def without_suites(text: str, disabled: Sequence[str], release: str) -> str:
    """Disable suites: lines become comments, in deb822 the suite goes, and an entry that has none left is switched off.

    disabled: `updates`, `backports`, `security`, `proposed`, `release`, or a suite's own name.
    """
    gone = {POCKETS.get(name, name).replace("$RELEASE", release) for name in disabled}
    if not gone:
        return text
    return _without_in_fields(text, gone) if is_deb822(text) else _without_in_lines(text, gone)


def _without_in_lines(text: str, gone: set[str]) -> str:
    made = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words and words[0] in ("deb", "deb-src"):
            rest = words[1:]
            if rest and rest[0].startswith("["):  # options, which may be several words
                while rest and not rest[0].endswith("]"):
                    rest = rest[1:]
                rest = rest[1:]
            if len(rest) > 1 and rest[1] in gone:
                line = f"{DISABLED}{line}"
        made.append(line)
    return "".join(made)


def _without_in_fields(text: str, gone: set[str]) -> str:
    blocks = text.split("\n\n")
    return "\n\n".join(_without_in_block(block, gone) for block in blocks)


def _without_in_block(block: str, gone: set[str]) -> str:
    import re

    suites = re.search(
        r"(?im)^suites[ \t]*:((?:.|\n[ \t])*)$", block
    )  # a value goes on in lines that begin with a blank
    names = suites[1].split() if suites else []
    left = [name for name in names if name not in gone]
    if suites is None or left == names:
        return block
    field = f"Suites: {' '.join(left)}" if left else f"{suites[0]}\nEnabled: no"
    return block[: suites.start()] + field + block[suites.end() :]


def with_entry(text: str, entry: str) -> str:
    """Add an entry's lines, or blocks of fields, to a file, less those that are there."""
    fields = is_deb822(entry)
    there = pieces(text, fields=fields)
    missing = [piece for piece in dict.fromkeys(pieces(entry, fields=fields)) if piece not in there]
    if not missing:
        return text
    start = text if not text or text.endswith("\n") else f"{text}\n"
    end = "\n\n" if fields else "\n"
    return start + ("\n" if fields and text.strip() else "") + end.join(missing) + "\n"


def pieces(text: str, *, fields: bool) -> list[str]:
    """Return what stands alone in a file: each block of fields, or each line, as they are written."""
    if not fields:
        return [line.rstrip() for line in text.splitlines() if line.strip()]
    blocks = [""]
    for line in text.splitlines():
        blocks += [""] if not line.strip() else []
        blocks[-1] += f"{line.rstrip()}\n" if line.strip() else ""
    return [block.rstrip("\n") for block in blocks if block]


def flaw(text: str) -> str:
    """Return why apt would refuse a text; empty if it would not. One that it refuses keeps it from doing anything."""
    fields = is_deb822(text)
    for piece in pieces(text, fields=fields):
        lines = [line for line in piece.splitlines() if not line.lstrip().startswith("#")]
        found = _flaw_of_block(lines) if fields else _flaw_of_line(lines[0]) if lines else ""
        if found:
            return found if fields else f"{found}: {piece.strip()!r}"
    return ""


def _flaw_of_line(line: str) -> str:
    import re

    words = re.findall(r'(?:"[^"]*"|\[[^]]*\]|[^\s"[\]#])+|#.*', line)
    kind, *rest = [word for word in words if not word.startswith("#")] or [""]
    if rest and rest[0].startswith("["):
        options = rest.pop(0)[1:-1].split()
        if any("=" not in option for option in options):
            return "an option is `name=value`"
    if line.count("[") != line.count("]"):
        return "a bracket is missing"
    uri, suite, components = (rest + ["", ""])[0], (rest + ["", ""])[1], rest[2:]
    return _flaw([kind], [uri.strip('"')], [suite], components)


def _flaw_of_block(lines: list[str]) -> str:
    if not lines:
        return ""
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        field, colon, value = line.partition(":")
        if line[0] in " \t" and name:
            found[name] += f" {line.strip()}"
        elif not colon or " " in field.strip():
            return f"not a field: {line.strip()!r}"
        else:
            name = field.strip().lower()
            found[name] = value
    types, uris, suites, components = (
        found.get(name, "").split() for name in ("types", "uris", "suites", "components")
    )
    return _flaw(types or [""], uris or [""], suites or [""], components)


def _flaw(types: list[str], uris: list[str], suites: list[str], components: list[str]) -> str:
    wrong = next((each for each in types if each not in ("deb", "deb-src")), None)
    if wrong is not None:
        return f"a source begins with deb or deb-src, not {wrong!r}" if wrong else "no type (deb, deb-src)"
    wrong = next((uri for uri in uris if ":" not in uri), None)
    if wrong is not None:
        return f"is no URI: {wrong!r}" if wrong else "no URI"
    if not all(suites):
        return "no suite"
    flat = [suite.endswith("/") for suite in suites]
    if all(flat):
        return "a suite that ends with / has no components" if components else ""
    return "" if components else "no component"
