"""The configuration of sshd: what it says before any `Match`, and our drop-in in it."""

from __future__ import annotations

from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudboot.host import Host

FOLDER = "/etc/ssh"
CONFIG = f"{FOLDER}/sshd_config"
DROP_INS = f"{FOLDER}/sshd_config.d"
OURS = f"{DROP_INS}/50-cloud-init.conf"  # cloud-init's name: images and scripts look for it
PROCESSES = (
    "/sys/fs/cgroup/system.slice/ssh.service/cgroup.procs",
    "/sys/fs/cgroup/system.slice/sshd.service/cgroup.procs",
)
DEPTH = 16  # of includes, as in sshd


def settings(host: Host, path: str = CONFIG, depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Yield (keyword in small letters, words) as sshd reads them, includes expanded, up to the first `Match`.

    sshd takes the first value of most keywords (sshd_config(5)).
    """
    for line in _text(host, path).splitlines():
        words = split(line)
        if not words:
            continue
        keyword = words[0].lower()
        if keyword == "match" and [word.lower() for word in words[1:]] != ["all"]:
            return
        if keyword == "include" and depth < DEPTH:
            for pattern in words[1:]:
                for file in _expand(host, pattern):
                    yield from settings(host, file, depth + 1)
        yield keyword, words[1:]


def value(host: Host, keyword: str) -> list[str] | None:
    """Return the words of a keyword's first value; None if it is nowhere set."""
    return next((words for name, words in settings(host) if name == keyword.lower()), None)


def place(host: Host) -> str:
    """Return the file that our settings belong into: the drop-in if sshd reads it, else its one file.

    Raises ConfigError if there is no sshd.
    """
    if not host.exists(CONFIG):
        if host.exists(DROP_INS):
            return OURS
        raise ConfigError(f"{CONFIG}: not there: install openssh-server")
    from fnmatch import fnmatchcase

    for name, words in settings(host):
        if name == "include" and any(fnmatchcase(OURS, _absolute(pattern)) for pattern in words):
            return OURS
    return CONFIG


def write(host: Host, keyword: str, values: Sequence[str]) -> bool:
    """Make a keyword have these values (one line each; none: no line) in the file that `place` names.

    Everybody else's lines stay. Returns whether the file changed. Raises ConfigError if there is no sshd.
    """
    path = place(host)
    before = host.read(path)
    text = (before or b"").decode("utf-8", "surrogateescape")
    after = edit(text, keyword, values)
    if after == text:
        return False
    return host.write(path, after.encode("utf-8", "surrogateescape"), mode=0o600 if before is None else None)


def own_values(host: Host, keyword: str) -> list[str]:
    """Return a keyword's values in the file that `place` names, one for each line of it."""
    found = []
    for line in _text(host, place(host)).splitlines():
        words = split(line)
        if words and words[0].lower() == "match":
            break
        if words and words[0].lower() == keyword.lower():
            found.append(" ".join(words[1:]))
    return found


def edit(text: str, keyword: str, values: Sequence[str]) -> str:
    """Replace a keyword's lines before the first `Match`; all else stays as it is."""
    lines = text.splitlines(keepends=True)
    end = next(
        (at for at, line in enumerate(lines) if split(line)[:1] and split(line)[0].lower() == "match"), len(lines)
    )
    mine = [at for at in range(end) if split(lines[at])[:1] and split(lines[at])[0].lower() == keyword.lower()]
    if [" ".join(split(lines[at])[1:]) for at in mine] == list(values):
        return text
    start = mine[0] if mine else end
    if start and not lines[start - 1].endswith("\n"):
        lines[start - 1] += "\n"
    kept = [line for at, line in enumerate(lines) if at not in mine]
    kept[start:start] = [f"{keyword} {each}\n" for each in values]
    return "".join(kept)


def split(line: str) -> list[str]:
    """Split a line of sshd_config into words: blanks or one `=` after the keyword, double quotes, `#` comments."""
    words: list[str] = []
    word, quoted, inside = "", False, False
    for char in line.strip():
        if char == '"':
            quoted, inside = not quoted, True
        elif quoted or not (
            char.isspace() or (char == "=" and len(words) + inside <= 1) or (char == "#" and not inside)
        ):
            word, inside = word + char, True
        else:
            if inside:
                words.append(word)
            word, inside = "", False
            if char == "#":
                break
    return [*words, word] if inside else words


def reload(host: Host) -> bool:
    """Let a running sshd read its configuration and keys again.

    In a boot it has not been started yet (we are ordered before it). Raises ConfigError if sshd would refuse the
    configuration: the running one then stays.
    """
    if not any((host.text(path) or "").strip() for path in PROCESSES):
        return False
    checked = host.ask(["sshd", "-t"])
    if not checked.ok:
        last = checked.output.strip().splitlines()[-1:] or [f"exit status {checked.status}"]
        raise ConfigError(f"sshd -t refuses the configuration: {last[0]}: sshd keeps running with the one before")
    # A sshd that systemd has given its socket to does not survive SIGHUP: it cannot bind the address a second time.
    # While it is restarted, connections wait in that socket.
    held = host.ask(["systemctl", "is-active", "--quiet", "ssh.socket"]).ok
    verb = "try-restart" if held else "try-reload-or-restart"
    return host.run(["systemctl", verb, "--no-block", "ssh.service"], live="no sshd runs in an image tree")


def _text(host: Host, path: str) -> str:
    return host.text(path) or ""


def _absolute(pattern: str) -> str:
    return pattern if pattern.startswith("/") else f"{FOLDER}/{pattern}"


def _expand(host: Host, pattern: str) -> list[str]:
    folder, _, last = _absolute(pattern).rpartition("/")
    if not any(char in last for char in "*?["):
        return [f"{folder}/{last}"]
    from fnmatch import fnmatchcase

    return [f"{folder}/{name}" for name in host.listdir(folder) if fnmatchcase(name, last) and name[0] != "."]
