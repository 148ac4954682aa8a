"""The machine's name: found out of configuration and metadata (pure), and given to the machine."""

from __future__ import annotations

import re

from cloudboot.actions import WriteFile
from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.checker import Schema
    from cloudboot.host import Host

HOSTNAME_FILE = "/etc/hostname"
KERNEL_NAME = "/proc/sys/kernel/hostname"
NAME_LIMIT = 64  # the kernel's HOST_NAME_MAX

# RFC 1123, and the underscore that systemd lets pass (hostname_is_valid).
LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
PATTERN = rf"^{LABEL}(\.{LABEL})*$"
FORM = "a host name: letters, digits and '-', in parts of at most 63 joined by '.'"

SCHEMA: dict[str, Schema] = {
    "hostname": {
        "type": "string",
        "pattern": PATTERN,
        "x-form": FORM,
        "maxLength": NAME_LIMIT,
        "examples": ["web1", "web1.example.com"],
    },
    "fqdn": {
        "type": "string",
        "pattern": PATTERN,
        "x-form": FORM,
        "maxLength": 253,
        "examples": ["web1.example.com"],
    },
    "preserve_hostname": {"default": False, "type": "boolean"},
    "prefer_fqdn_over_hostname": {"default": False, "type": "boolean"},
    "create_hostname_file": {"default": True, "type": "boolean"},
}


class Names(NamedTuple):
    """What a machine is called. `fqdn` is the hostname where no domain is known."""

    hostname: str
    fqdn: str

    def chosen(self, config: Mapping[str, Any]) -> str:
        """Return the one that the machine's own name is to be; the short one if the long one is too long for it."""
        if config.get("prefer_fqdn_over_hostname") and len(self.fqdn) <= NAME_LIMIT:
            return self.fqdn
        return self.hostname


def resolve(config: Mapping[str, Any], metadata_name: str | None) -> Names | None:
    """Find the machine's names; None if neither the configuration nor the metadata has a usable one.

    First `fqdn` (the hostname is `hostname`, else its first label), then a `hostname` with a dot, then `hostname`
    with the metadata's domain name, then the metadata alone (cloud-init's order).
    """
    # A block text (`hostname: |`) brings its newline along, which a pattern's `$` lets pass.
    fqdn, hostname = (str(config.get(key) or "").strip() for key in ("fqdn", "hostname"))
    if fqdn:
        return Names(hostname or fqdn.partition(".")[0], fqdn)
    if hostname and "." in hostname:
        return Names(hostname.partition(".")[0], hostname)
    known = from_metadata(metadata_name)
    if hostname:
        return Names(hostname, known.fqdn if known else hostname)
    return known


def from_metadata(name: str | None) -> Names | None:
    """Read `local-hostname`: a name, an IPv4 address, or several names (one for each of a VPC's domains).

    The service is not trusted: what is no host name is None.
    """
    words = (name or "").split()
    if not words:
        return None
    if re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", words[0]):
        dashed = f"ip-{words[0].replace('.', '-')}"
        return Names(dashed, dashed)
    if not all(len(word) <= 253 and re.fullmatch(PATTERN, word) for word in words):
        return None
    return Names(words[0].partition(".")[0], words[0])


def name_in(text: str | None) -> str:
    """Return the name that /etc/hostname holds; empty if it holds none."""
    lines = [line.strip() for line in (text or "").splitlines()]
    return next((line for line in lines if line and not line.startswith("#")), "")


def with_name(text: str | None, name: str) -> str:
    """Return /etc/hostname with another name, its comments as they are."""
    comments = [line for line in (text or "").splitlines() if line.lstrip().startswith("#")]
    return "".join(f"{line}\n" for line in [*comments, name])


def given(host: Host, folder: str) -> str:
    """Return the name that we gave to this instance last; empty if we gave none. `folder`: the instance's."""
    return name_in(host.text(f"{folder}/hostname"))


def give(host: Host, folder: str, name: str, *, create: bool = True) -> None:
    """Write a name into /etc/hostname (`create`: also where there is none) and tell it to the kernel.

    Raises ConfigError if there is no `hostname` program to do so.
    """
    # Noted before it is done: after a crash in between, the name is still known to be ours.
    host.keep(WriteFile(f"{folder}/hostname", f"{name}\n".encode(), 0o600))
    text = host.text(HOSTNAME_FILE)
    if name_in(text) != name and (text is not None or create):
        host.write(HOSTNAME_FILE, with_name(text, name))
    if (host.text(KERNEL_NAME) or "").strip() == name:
        return
    if host.live and host.which("hostname") is None:
        raise ConfigError(f"hostname: not found: install hostname; until a reboot the running name is not {name!r}")
    host.run(["hostname", name], live="the name of the running kernel")
