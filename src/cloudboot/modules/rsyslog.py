"""rsyslog: what the system's log takes in and where it goes."""

from __future__ import annotations

import os
import re

from cloudboot import apt, packages
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema

FOLDER = "/etc/rsyslog.d"
FILE = "20-cloud-config.conf"
NAME: Schema = {"type": "string", "minLength": 1}
CONFIGS: Schema = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["content"],
                "properties": {"filename": NAME, "content": {"type": "string"}},
            },
        ]
    },
}
PATH: Schema = {"type": "string", "pattern": "^/", "x-form": "an absolute path"}
# `[selector] [@|@@]host[:port]`: one @ is UDP, two are TCP; an IPv6 address stands in brackets.
REMOTE = r"(@{0,2})(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\s:@\[\]]+))(?::([0-9]+))?"


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "rsyslog": {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "config_dir": {**PATH, "default": "/etc/rsyslog.d"},
                        "config_filename": {**NAME, "default": "20-cloud-config.conf"},
                        "configs": CONFIGS,
                        "remotes": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
                        "service_reload_command": {
                            "default": "auto",
                            "anyOf": [
                                {"type": "string", "enum": ["auto"]},
                                {"type": "array", "items": {"type": "string"}, "minItems": 1, "x-whole": True},
                            ],
                        },
                        "install_rsyslog": {"default": False, "type": "boolean"},
                        "check_exe": {**NAME, "default": "rsyslogd"},
                        "packages": {
                            "default": ["rsyslog"],
                            "type": "array",
                            "items": {"type": "string", "pattern": apt.WORD, "x-form": "a package's name"},
                        },
                    },
                },
                {**CONFIGS, "deprecated": "22.2: use rsyslog.configs"},
            ],
            "examples": [
                {"remotes": {"maas": "192.168.1.1", "juju": "*.* @@[2001:db8::1]:10514"}},
                {"configs": ["*.* @@192.0.2.1:10514", {"filename": "01-own.conf", "content": "*.* /var/log/all\n"}]},
            ],
        },
        "rsyslog_dir": {**PATH, "deprecated": "22.2: use rsyslog.config_dir"},
        "rsyslog_filename": {**NAME, "deprecated": "22.2: use rsyslog.config_filename"},
    },
    keys=("rsyslog",),
)
def rsyslog(ctx: Context) -> None:
    """Write rsyslog's configuration: `configs`, and a line for each of `remotes`; rsyslog is started again if it runs.

    An entry of `configs` is a text for `config_filename` (20-cloud-config.conf), or has a file name of its own; names
    are below `config_dir` (/etc/rsyslog.d). Texts of one file follow each other. `install_rsyslog: true` installs
    `packages` if `check_exe` (rsyslogd) is not there. A configuration that rsyslogd refuses is said, and the running
    one stays. `service_reload_command` is run in place of the restart.
    """
    settings = read(ctx)
    program = settings.get("check_exe", "rsyslogd")
    there = ctx.host.which(program) is not None
    if not there and settings.get("install_rsyslog", False):
        there = packages.bring(ctx, settings.get("packages") or ["rsyslog"], program=program)
    elif not there and ctx.host.live:
        ctx.fail(f"{program}: not found: install rsyslog (install_rsyslog: true): nothing is logged by it")
    changed = False
    for path, text in files(ctx, settings).items():
        changed = ctx.host.write(path, text) or changed
    if changed and there and ctx.host.live:
        reload(ctx, settings.get("service_reload_command", "auto"))


def read(ctx: Context) -> dict[str, Any]:
    """Return the settings; the old list form, with its keys beside it, as the mapping that it stands for."""
    given = ctx.config["rsyslog"]
    old = {"config_dir": ctx.config.get("rsyslog_dir"), "config_filename": ctx.config.get("rsyslog_filename")}
    known = {name: value for name, value in old.items() if value is not None}
    return {**known, **(given if isinstance(given, dict) else {"configs": given})}


def files(ctx: Context, settings: dict[str, Any]) -> dict[str, str]:
    """Return the text of each file, by its path, in the order of the configuration."""
    folder, name = settings.get("config_dir", FOLDER), settings.get("config_filename", FILE)
    found: dict[str, str] = {}
    entries = [each if isinstance(each, dict) else {"content": each} for each in settings.get("configs") or ()]
    lines = remotes(ctx, settings.get("remotes") or {})
    if lines:
        entries.append({"content": "\n".join(lines)})
    for entry in entries:
        path = os.path.join(folder, entry.get("filename", name))
        found[path] = found.get(path, "") + entry["content"].rstrip("\n") + "\n"
    return found


def remotes(ctx: Context, given: dict[str, str | None]) -> list[str]:
    """Return a line of rsyslog's for each remote that can be read; one without a value is left out."""
    found = []
    for name, text in given.items():
        if not text:
            continue
        line = remote(name, text)
        if line is None:
            told = f"is not '[selector] [@|@@]host[:port]' (IPv6 in brackets): {text!r}: left out"
            ctx.report(f"rsyslog.remotes.{name}: {told}", ("rsyslog", "remotes", name))
        else:
            found.append(line)
    return found


def remote(name: str, text: str) -> str | None:
    """Write one remote as rsyslog has it; None if it cannot be read. Without a selector everything is sent there."""
    words = text.partition("#")[0].split()
    match = re.fullmatch(REMOTE, words[-1]) if len(words) in (1, 2) else None
    if match is None or int(match[4] or 514) > 65535:
        return None
    host = f"[{match[2]}]" if match[2] else match[3]
    port = f":{match[4]}" if match[4] else ""
    selector = words[0] if len(words) == 2 else "*.*"
    return f"{selector} {match[1] or '@'}{host}{port} # {' '.join(name.split())}"


def reload(ctx: Context, command: str | list[str]) -> None:
    """Have a running rsyslog read its configuration: on SIGHUP it only opens its files again, so it is restarted."""
    if isinstance(command, list):
        ctx.host.run(command)
        return
    checked = ctx.host.ask(["rsyslogd", "-N1"])
    if not checked.ok and checked.status != 127:
        ctx.fail(f"rsyslogd -N1 refuses the configuration: {complaint(checked.output)}: the running one stays")
        return
    ctx.host.run(["systemctl", "try-restart", "--no-block", "rsyslog.service"])


def complaint(output: str) -> str:
    """Return the first line that says what is wrong, without rsyslogd's own name and the link at its end."""
    lines = [line.strip() for line in output.splitlines() if re.search(r"error|unknown|invalid|not ", line)]
    line = (lines or [line for line in output.splitlines() if line.strip()] or ["it says nothing"])[0]
    return re.sub(r"\s*\[v[\d.]+[^]]*\]|^rsyslogd: ", "", line)[:200].strip()
