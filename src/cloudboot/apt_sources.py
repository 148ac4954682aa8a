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

    keys: keyrings for PRIMARY and SECURITY where they are not the distribution's.
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
    made = []
    for line in block.split("\n"):
        field, colon, value = line.partition(":")
        suites = value.split()
        if colon and field.strip().lower() == "suites" and gone & set(suites):
            left = [suite for suite in suites if suite not in gone]
            made += [f"Suites: {' '.join(left)}"] if left else [line, "Enabled: no"]
        else:
            made.append(line)
    return "\n".join(made)


def with_entry(text: str, entry: str) -> str:
    """Add an entry to a file unless it is there."""
    wanted = entry.strip("\n")
    blocks = text.split("\n\n") if is_deb822(wanted) else text.splitlines()
    if any(block.strip("\n") == wanted for block in blocks):
        return text
    gap = "\n" if is_deb822(wanted) and text.strip() else ""
    start = text if not text or text.endswith("\n") else f"{text}\n"
    return f"{start}{gap}{wanted}\n"
