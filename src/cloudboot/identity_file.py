"""What a volume says it is for (`ebs-config.txt`), the owner's policy, and what one says of the other. Pure.

A volume's word is all or nothing: what is unknown or wrong in it refuses the whole, since half of it may mean another
thing than all of it.
"""

from __future__ import annotations

from cloudboot.checker import Schema, check
from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Problem, at
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "ebs-config.txt"
ACTIONS = ("mount", "run", "root")
BELOW = ("/srv", "/mnt", "/data", "/opt", "/var/lib")  # where `mount` may be
NEVER = ("/var/lib/cloudboot", "/var/lib/cloud", "/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd", "/var/lib/dbus")
# Of a volume that anybody may have made: what is set-user-ID on it, and its device nodes, mean nothing here.
ALWAYS = ("nosuid", "nodev")
OPTIONS = frozenset(
    """defaults ro rw noexec noatime nodiratime relatime strictatime lazytime nolazytime discard nodiscard sync async
    dirsync user_xattr acl noacl ssd autodefrag nosuid nodev""".split()
)
VALUED = r"(commit=\d{1,5}|errors=(continue|remount-ro)|compress(-force)?=(zlib|lzo|zstd)(:\d{1,2})?|logbsize=\d+k)"
UNITS = {"s": 1, "m": 60, "h": 3600}
TIMEOUT = 600  # seconds that a program has if the volume does not say
MOST = 86400  # seconds
MODES = ("root", "overlay")  # of a root: it is `/`; it holds the upper layer over the image
OTHERWISE = ("fallback", "stop")
PLAIN = r"(mode(?=: (?:root|overlay)$)|copy(?=: (?:true|false)$)|volume(?=: vol-[0-9a-f]+$)): (.*)"
NOT_PLAIN = (
    "must be plain, for it is read before the system is there: `root:` and then one `key: value` to a line, indented "
    "alike, with nothing behind the value (`cloudboot consume --init` writes it so)"
)

PATH = r"^/[^\0\n]*$(?!\n)"
SEGMENT = r"^(?!/)[^\0\n\\]+$(?!\n)"  # of a path on the volume
ACCOUNT = r"^[a-z_][a-z0-9_-]*\$?$(?!\n)"
SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "mount": {
            "type": "object",
            "additionalProperties": False,
            "required": ["where"],
            "properties": {
                "where": {"type": "string", "pattern": PATH, "x-form": "an absolute path"},
                "options": {"type": "array", "items": {"type": "string"}},
                "owner": {
                    "type": "string",
                    "pattern": r"^[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?$(?!\n)",
                    "x-form": "user:group",
                },
                "check": {"type": "boolean"},
            },
        },
        "run": {
            "type": "object",
            "additionalProperties": False,
            "required": ["program", "digests"],
            "properties": {
                "program": {"type": "string", "pattern": SEGMENT, "x-form": "a path on the volume"},
                "arguments": {"type": "array", "items": {"type": "string", "pattern": r"^[^\0]*$"}},
                "user": {"type": "string", "pattern": ACCOUNT, "x-form": "a user's name"},
                "frequency": {"type": "string", "enum": ["per-volume", "per-instance", "per-boot"]},
                "timeout": {
                    "anyOf": [
                        {"type": "integer", "minimum": 1, "maximum": MOST},
                        {"type": "string", "pattern": r"^[1-9][0-9]{0,5}[smh]?$(?!\n)", "x-form": "10m"},
                    ]
                },
                "digests": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "type": "string",
                        "pattern": r"^[0-9a-f]{64}$(?!\n)",
                        "x-form": "a SHA-256 of 64 hexadecimal digits",
                    },
                },
            },
        },
        "root": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mode": {"type": "string", "enum": list(MODES)},
                "copy": {"type": "boolean"},
                "volume": {"type": "string", "pattern": r"^vol-[0-9a-f]+$(?!\n)", "x-form": "vol-0123456789abcdef0"},
            },
        },
    },
}


class Identity(NamedTuple):
    """What a volume says.

    where: of `mount`. timeout: seconds. digests: path on the volume -> SHA-256, of `run`. mode, copy (the image's files
    onto an empty volume), volume (the only one that this is the identity of): of `root`.
    """

    action: str
    where: str = ""
    options: tuple[str, ...] = ()
    owner: str = ""
    check: bool = False
    program: str = ""
    arguments: tuple[str, ...] = ()
    user: str = ""
    frequency: str = "per-volume"
    timeout: int = TIMEOUT
    digests: Mapping[str, str] = {}
    mode: str = ""
    copy: bool = True
    volume: str = ""


class Policy(NamedTuple):
    """What the owner lets volumes do. match: `label`, `volume-id`, `tag` -> patterns, one of each has to fit.

    otherwise: what becomes of a boot without the root that it should have. wait: for it, in seconds. rebase: an upper
    layer may be put over another image than it was made over.
    """

    allow: tuple[str, ...] = ("mount",)
    signers: tuple[str, ...] = ()
    unsigned: bool = False
    match: Mapping[str, tuple[str, ...]] = {}
    otherwise: str = "fallback"
    wait: int = 30
    rebase: bool = False

    @classmethod
    def of(cls, value: Any) -> Policy | None:
        """Read the configuration's `consume`: None if no volume is to be looked at."""
        if value is True:
            return cls()
        if not isinstance(value, dict):
            return None
        match = {
            key: (patterns,) if isinstance(patterns, str) else tuple(map(str, patterns))
            for key, patterns in (value.get("match") or {}).items()
        }
        root = {key: each for key, each in (value.get("root") or {}).items() if key in ("otherwise", "wait", "rebase")}
        return cls(
            tuple(value.get("allow", ("mount",))),
            tuple(value.get("signers", ())),
            bool(value.get("unsigned", False)),
            match,
            **root,
        )

    def admits(self, *, label: str, volume: str, tags: Mapping[str, str]) -> bool:
        """Tell whether a volume may be opened at all. tags: the instance's; a pattern is `NAME` or `NAME=VALUE`."""
        there = {"label": [label], "volume-id": [volume, volume.replace("-", "", 1)]}
        there["tag"] = [text for name, value in tags.items() for text in (name, f"{name}={value}")]
        return all(any(_fits(pattern, there[key]) for pattern in patterns) for key, patterns in self.match.items())


def parse(content: bytes) -> Identity:
    """Read an identity file. Raises ConfigError: one line, with line and column, that says why it is refused."""
    from cloudboot.userdata.document import load

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{NAME}: is no text in UTF-8") from None
    document = load(text, NAME)
    wrong = [each for each in document.problems if each.level is not Level.DEPRECATED]
    if wrong:
        raise ConfigError(str(wrong[0]))
    value = document.value
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{NAME}:1:1: must say one of {', '.join(ACTIONS)}")
    for flaw in check(value, SCHEMA):
        place = ".".join(map(str, flaw.pointer))
        raise ConfigError(str(Problem(at(document.marks, flaw.pointer, NAME), f"{place}: {flaw.text}".lstrip(": "))))
    if len(value) > 1:
        raise ConfigError(f"{NAME}:1:1: says several things ({', '.join(value)}): it may say one")
    ((action, fields),) = value.items()
    if action == "root" and plain_root(text) is None:
        raise ConfigError(f"{NAME}: root: {NOT_PLAIN}")
    for key, told in _flaws(action, fields):
        raise ConfigError(str(Problem(at(document.marks, (action, key), NAME), f"{action}.{key}: {told}")))
    return _identity(action, fields)


def plain_root(text: str) -> dict[str, str] | None:
    """Read a `root:` as the initramfs does, which has no YAML: one key to a line and nothing behind it; None if not so.

    The same grammar as `read_identity` in initramfs/scripts/local-bottom/cloudboot-root.
    """
    import re

    lines = [line for line in text.split("\n") if line.strip(" ") and not line.lstrip(" ").startswith("#")]
    if not lines or not all(re.fullmatch(r"[ -~]*", line) for line in text.split("\n")):
        return None
    if lines[0].rstrip(" ") == "root: {}" and len(lines) == 1:
        return {}
    found: dict[str, str] = {}
    indents = {len(line) - len(line.lstrip(" ")) for line in lines[1:]}
    if lines[0].rstrip(" ") != "root:" or len(indents) != 1 or 0 in indents:
        return None
    for line in lines[1:]:
        match = re.fullmatch(PLAIN, line.strip(" "))
        if match is None or match[1] in found:
            return None
        found[match[1]] = match[2]
    return found


def _flaws(action: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a schema cannot say."""
    import posixpath
    import re

    if action == "mount":
        where = fields["where"]
        if posixpath.normpath(where) != where.rstrip("/") or not where.isprintable() or where.startswith("//"):
            yield "where", f"is not a plain path (no `..`, no `//`): {where!r}"
        for option in fields.get("options", ()):
            if option not in OPTIONS and not re.fullmatch(VALUED, option):
                yield "options", f"not an option that a volume may have: {option!r}"
    if action == "run":
        paths = [fields["program"], *fields["digests"]]
        for path in paths:
            if posixpath.normpath(path) != path or path.startswith(("/", "..")) or path == ".":
                yield "program" if path == fields["program"] else "digests", f"is not a path on the volume: {path!r}"
        if fields["program"] not in fields["digests"]:
            yield "digests", f"has none of {fields['program']!r}"


def _identity(action: str, fields: Mapping[str, Any]) -> Identity:
    given = dict(fields)
    if action == "mount":
        own = [option for option in given.get("options", ()) if option not in (*ALWAYS, "defaults")]
        given |= {"options": (*ALWAYS, *dict.fromkeys(own)), "where": given["where"].rstrip("/")}
    if action == "run":
        given["arguments"] = tuple(given.get("arguments", ()))
        given["timeout"] = _seconds(given.get("timeout", TIMEOUT))
    if action == "root":
        given.setdefault("mode", "root")
    return Identity(action, **given)


def _seconds(value: int | str) -> int:
    if isinstance(value, int):
        return value
    unit = UNITS.get(value[-1])
    return min(MOST, int(value) if unit is None else int(value[:-1]) * unit)


def judge(identity: Identity, policy: Policy, signed: bool) -> str | None:
    """Return why a volume may not do what it says, None if it may. signed: by one of the policy's signers."""
    if identity.action not in policy.allow:
        return f"{identity.action} is not allowed: consume.allow has {', '.join(policy.allow) or 'nothing'}"
    if identity.action != "mount":
        return None if signed or policy.unsigned else f"{identity.action} is not signed by one of consume.signers"
    where = identity.where
    if not _below(where, BELOW):
        return f"may not be mounted on {where}: only below {', '.join(BELOW)}"
    taken = next((path for path in NEVER if f"{where}/".startswith(f"{path}/")), None)
    return f"may not be mounted on {where}: {taken} is the system's" if taken else None


def conflicts(identities: Mapping[str, Identity]) -> dict[str, str]:
    """Return why volumes are refused that claim the same: by name. Both are, for there is no telling which is right."""
    found: dict[str, str] = {}
    for name, identity in identities.items():
        for other, claim in identities.items():
            if other == name or claim.action != identity.action:
                continue
            if identity.action == "root":
                found[name] = f"{other} wants to be the root too"
            elif identity.action == "mount" and identity.where == claim.where:
                found[name] = f"{other} wants to be mounted on {identity.where} too"
    return found


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path.startswith(f"{place}/") for place in places)


def _fits(pattern: str, names: list[str]) -> bool:
    import fnmatch

    return any(name and fnmatch.fnmatchcase(name, pattern) for name in names)
