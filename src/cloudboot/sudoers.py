"""Rules for sudo and doas: read from the configuration, checked, and written whole."""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.host import Host

SUDOERS = "/etc/sudoers"
FOLDER = "/etc/sudoers.d"
FILE = f"{FOLDER}/90-cloud-init-users"  # cloud-init's name: images and scripts look for it
DOAS = "/etc/doas.conf"
HEADER = "# Written by cloudboot from the configuration's `users`. Rules of your own belong into another file.\n"
# user hosts=(runas) tags: commands; the user is ours to write.
RULE = r"[^=\s#][^=\n]*=\s*(\([^()\n]*\)\s*)?([A-Z_]+:\s*)*[^\s()#][^\n]*"
DOAS_OPTIONS = r"(?:(?:nopass|nolog|persist|keepenv|setenv\s*\{[^}\n]*\})\s+)*"


class Rules(NamedTuple):
    """What one account may do: each text is what follows its name in a line of sudoers."""

    name: str
    texts: tuple[str, ...]


def rules(name: str, value: Any) -> Rules:
    """Read a `sudo` value: a text, a list of texts, or nothing."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    lines = [line.strip() for text in texts for line in str(text).splitlines()]
    return Rules(name, tuple(line for line in lines if line))


def render(granted: Sequence[Rules]) -> str:
    """Return the text of our file."""
    blocks = [
        f"\n# {each.name}\n" + "".join(f"{each.name} {text}\n" for text in each.texts) for each in granted if each.texts
    ]
    return HEADER + "".join(blocks) if blocks else ""


def bad_rules(host: Host, granted: Sequence[Rules]) -> set[tuple[str, str]]:
    """Return the rules (name, text) that sudo would not read.

    visudo judges where the tree has it, the rule's shape elsewhere: a file that sudo cannot read can take sudo from
    everybody.
    """
    pairs = [(each.name, text) for each in granted for text in each.texts]
    bad = {(name, text) for name, text in pairs if not re.fullmatch(RULE, text) or text.endswith("\\")}
    good = [pair for pair in pairs if pair not in bad]
    if good and host.which("visudo") is not None and not _reads(host, good):
        bad |= {pair for pair in good if not _reads(host, [pair])}
    return bad


def install(host: Host, granted: Sequence[Rules]) -> bool:
    """Write our file (or remove one of ours that holds nothing any more), and see that sudo includes it."""
    text = render(granted)
    if not text:
        ours = (host.text(FILE) or "").startswith(HEADER)
        return host.remove(FILE) if ours else False
    host.mkdir(FOLDER, mode=0o750)
    changed = host.write(FILE, text, mode=0o440)
    main = host.read(SUDOERS)
    if main is not None and not re.search(rb"(?m)^[#@]includedir\s+/etc/sudoers\.d\s*$", main):
        host.write(
            SUDOERS, main + (b"" if main.endswith(b"\n") else b"\n") + b"@includedir /etc/sudoers.d\n", mode=None
        )
    return changed


def current(host: Host) -> str | None:
    """Return what our file holds."""
    return host.text(FILE)


def doas_rule_names(rule: str, name: str) -> bool:
    """Tell whether a rule for doas is well formed and about this account."""
    shape = (
        rf"(?:permit|deny)\s+{DOAS_OPTIONS}{re.escape(name)}(?:\s+as\s+\S+)?(?:\s+cmd\s+\S+(?:\s+args(?:\s+[^\n]*)?)?)?"
    )
    return re.fullmatch(shape, rule.strip()) is not None


def install_doas(host: Host, lines: Sequence[str]) -> bool:
    """Add rules that /etc/doas.conf has not yet; the lines of others stay."""
    before = host.read(DOAS) or b""
    known = before.decode("utf-8", "replace").splitlines()
    new = [line for line in dict.fromkeys(line.strip() for line in lines) if line not in known]
    if not new:
        return False
    gap = b"" if not before or before.endswith(b"\n") else b"\n"
    return host.write(DOAS, before + gap + "".join(f"{line}\n" for line in new).encode(), mode=0o440)


def _reads(host: Host, pairs: Sequence[tuple[str, str]]) -> bool:
    text = "".join(f"{name} {rule}\n" for name, rule in pairs)
    return host.ask(["visudo", "-cf", "-"], stdin=text.encode()).status in (0, 127)
