"""ca_certs: whose certificates the machine trusts."""

from __future__ import annotations

import re

from cloudboot.actions import Remove, WriteFile
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudboot.checker import Schema
    from cloudboot.host import Host

FOLDER = "/usr/local/share/ca-certificates"
NAME = "cloud-init-ca-cert"  # cloud-init's name: images and scripts look for it
SELECTION = "/etc/ca-certificates.conf"  # Debian's own: `!` before a name means that it is not trusted
DEBCONF = "/var/cache/debconf/config.dat"
QUESTION = "ca-certificates/trust_new_crts"
PENDING = "ca-certificates-pending"  # in the instance's directory: files are changed, the tool has not run
PEM = r"-----BEGIN (?:X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END (?:X509 )?CERTIFICATE-----"
WHOLE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "remove_defaults": {"default": False, "type": "boolean"},
        "remove-defaults": {"type": "boolean", "deprecated": "22.3: use remove_defaults"},
        "trusted": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    },
}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "ca_certs": {
            **WHOLE,
            "examples": [
                {
                    "remove_defaults": True,
                    "trusted": ["-----BEGIN CERTIFICATE-----\nYOUR-ORGS-TRUSTED-CA-CERT\n-----END CERTIFICATE-----"],
                }
            ],
        },
        "ca-certs": {**WHOLE, "deprecated": "22.3: use ca_certs"},
    },
)
def ca_certs(ctx: Context) -> None:
    """Trust the certificates of `trusted`; `remove_defaults: true` trusts none of the distribution's own.

    Files: /usr/local/share/ca-certificates/cloud-init-ca-cert-N.crt, one for each entry (a further certificate of the
    same entry gets a file of its own, N-2, N-3 …), /etc/ca-certificates.conf, and what update-ca-certificates makes of
    them in /etc/ssl/certs. What is no certificate is left out.
    """
    host, pending = ctx.host, f"{ctx.commands.folder}/{PENDING}"
    key = "ca_certs" if "ca_certs" in ctx.config else "ca-certs"
    if key == "ca_certs" and "ca-certs" in ctx.config:
        ctx.report("ca-certs: ca_certs is there too, and counts", ("ca-certs",), Level.WARNING)
    settings: dict[str, Any] = ctx.config[key]
    files = [WriteFile(path, text.encode()) for path, text in trusted(ctx, key, settings.get("trusted") or ())]
    if settings.get("remove_defaults", settings.get("remove-defaults", False)):
        files += deselected(host)
        keep_new_ones_out(host)
    if not host.exists(pending):
        files = [file for file in files if not file.done(host)]
        if not files:
            return
    # Noted before it is done: after a crash in between, the files are right and only the tool is missing.
    host.keep(WriteFile(pending, b"", 0o600))
    for file in files:
        host.do(file)
    if host.live and host.which("update-ca-certificates") is None:
        again = "install ca-certificates, then `cloudboot single --module ca_certs`"
        ctx.fail(f"update-ca-certificates: not found: {again}: nothing is trusted yet")
        return
    host.run(["update-ca-certificates"])
    host.keep(Remove(pending))


def trusted(ctx: Context, key: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the file and the text of each certificate; what is none is reported."""
    for number, text in enumerate(texts, 1):
        found = certificates(text)
        if not found:
            told = "is not a certificate in PEM form (-----BEGIN CERTIFICATE----- …): left out"
            ctx.report(f"{key}.trusted[{number - 1}]: {told}", (key, "trusted", number - 1))
        for place, each in enumerate(found, 1):
            yield f"{FOLDER}/{NAME}-{number}{f'-{place}' if place > 1 else ''}.crt", each


def certificates(text: str) -> list[str]:
    """Return the certificates in a text, in PEM form, each whole; none if one of them is damaged.

    A certificate is one ASN.1 sequence (X.690): 0x30, its length, and nothing after it.
    """
    import binascii

    found = []
    for match in re.finditer(PEM, text):
        try:
            raw = binascii.a2b_base64("".join(match[1].split()), strict_mode=True)
        except binascii.Error:
            return []
        if raw[:1] != b"\x30" or _length(raw) != len(raw):
            return []
        body = binascii.b2a_base64(raw, newline=False).decode()
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        found.append("\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]))
    return found if len(found) == text.count("-----BEGIN ") else []


def _length(raw: bytes) -> int:
    """Return how many bytes the first ASN.1 value takes, its head too."""
    if len(raw) < 2 or raw[1] < 0x80:
        return 2 + raw[1] if len(raw) > 1 else 0
    size = raw[1] & 0x7F
    return 2 + size + int.from_bytes(raw[2 : 2 + size], "big")


def deselected(host: Host) -> list[WriteFile]:
    """Return the distribution's list with each certificate switched off; nothing if there is no list."""
    text = host.text(SELECTION)
    if text is None:
        return []
    lines = [f"!{line}" if line.strip() and line[0] not in "#!" else line for line in text.splitlines()]
    return [WriteFile(SELECTION, "".join(f"{line}\n" for line in lines).encode())]


def keep_new_ones_out(host: Host) -> None:
    """Have later versions of the package add none by themselves: debconf's answer to whether new ones are trusted."""
    asked = re.search(rf"(?m)^Name: {QUESTION}\n(?:[^\n]+\n)*?Value: (.*)$", host.text(DEBCONF) or "")
    if (asked and asked[1] == "no") or (host.live and host.which("debconf-set-selections") is None):
        return
    host.run(["debconf-set-selections"], stdin=f"ca-certificates {QUESTION} select no\n".encode())
