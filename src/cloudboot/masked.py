"""What may not be shown of a plan: the configuration's secrets, and what looks like one in a text.

The rule: whatever a schema marks `x-secret` becomes `***` wherever it turns up. The exceptions are texts that people
write to be carried out, `write_files`, `runcmd`, `bootcmd` and `lease`: a plan shows these, but for words that look
like a secret. Files that not everybody may read are the plan's own matter (`plan.hidden`).
"""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudboot.checker import Schema

STARS = "***"
SHOWN = ("write_files", "runcmd", "bootcmd", "lease")
SHORTEST = 4  # characters; shorter ones would blot out half of every text
NAMES = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|(?:api|access|secret|private)[_-]?key)"
LOOKS = (
    # name=value, name: value, "name": "value", --name value. Bounded: a line of base64 may be a megabyte long.
    re.compile(rf"(?i)({NAMES}[\w-]{{0,40}}['\"]?\s{{0,8}}(?:=|:\s)\s{{0,8}}['\"]?)([^\s'\"]+)"),
    re.compile(rf"(?i)(--(?:[a-z][\w-]{{0,40}}?)?{NAMES}[\w-]{{0,40}}[= ]['\"]?)([^\s'\"-][^\s'\"]*)"),
    re.compile(r"(?i)(authorization:\s{0,8}\w{1,20}\s{1,8})([^\s'\"]+)"),
    re.compile(r"(://[^/\s:@]{0,100}:)([^@\s/]{1,500})(?=@)"),  # user:secret@host
    re.compile(r"()(\$(?:1|2[abxy]?|5|6|7|y|gy)\$[^\s:'\"]{8,})"),  # crypt(5)
)
PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----.*?(-----END ([A-Z]+ )*PRIVATE KEY-----|\Z)", re.DOTALL)


class Mask:
    """Puts `***` in place of secrets. Pure but for what it was made from."""

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        longest_first = sorted(secrets, key=len, reverse=True)
        self.known = re.compile("|".join(map(re.escape, longest_first))) if secrets else None

    def __call__(self, text: str) -> str:
        """Return a text without what may not be shown."""
        if self.known is not None:
            text = self.known.sub(STARS, text)
        text = PRIVATE_KEY.sub(STARS, text)
        for look in LOOKS:
            text = look.sub(lambda match: match[1] + STARS, text)
        return text


def secrets(config: Mapping[str, Any], schemas: Mapping[str, Schema]) -> frozenset[str]:
    """Collect the secrets of a configuration: what schemas mark, each line of it, and what follows a name and colon."""
    found: set[str] = set()
    for key, value in config.items():
        if key not in SHOWN and key in schemas:
            for text in _marked(value, schemas[key]):
                for line in [text, *text.splitlines()]:
                    name, colon, rest = line.strip().partition(":")
                    found |= {line.strip(), rest if colon and re.fullmatch(r"[\w.-]+\$?", name) else ""}
    return frozenset(each for each in found if len(each) >= SHORTEST)


def _marked(value: Any, schema: Schema) -> Iterator[str]:
    """Yield the texts that a schema, or one of its alternatives, marks as secret."""
    if schema.get("x-secret"):
        yield from _texts(value)
        return
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _marked(value, each)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            yield from _marked(item, schema["items"])
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for key, item in value.items():
            below = schema.get("properties", {}).get(key, others)
            if isinstance(below, dict):
                yield from _marked(item, below)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield str(value)
