"""Mirrors of the distribution: the owner's, the region's, the distribution's own."""

from __future__ import annotations

import re

from cloudboot.module import Level
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.distro import Distro
    from cloudboot.module import Context

REGION = r"[a-z]{2}(-[a-z]+)+-[0-9]+"  # what is a region of EC2's, and may become a part of a host's name


def choose(ctx: Context, settings: dict[str, Any], facts: Distro) -> dict[str, str]:
    """Return the mirrors by the names that texts use."""
    primary = of_owner(ctx, settings, "primary", facts)
    security = of_owner(ctx, settings, "security", facts)
    if primary is not None:
        security = security or primary
    else:
        primary = regional(ctx, facts) or facts.apt.primary
    found = {"PRIMARY": primary, "SECURITY": security or facts.apt.security, "MIRROR": primary}
    return {name: uri.rstrip("/") for name, uri in found.items()}


def of_owner(ctx: Context, settings: dict[str, Any], kind: str, facts: Distro) -> str | None:
    """Return the mirror that the owner wants for this architecture; the first of `search` that has an address."""
    entry = entry_for(ctx, settings.get(kind) or ())
    if entry is None or "uri" in entry:
        return str(entry["uri"]) if entry is not None else None
    candidates = list(entry.get("search") or ())
    if entry.get("search_dns"):
        domain = str(ctx.config.get("fqdn") or ctx.instance.hostname or "").partition(".")[2]
        word = "mirror" if kind == "primary" else "security-mirror"
        ends = [f".{domain}"] * bool(domain) + [".localdomain", ""]
        candidates += [f"http://{facts.name}-{word}{end}/{facts.name}" for end in ends]
    for uri in candidates:
        if resolves(ctx, uri):
            return str(uri)
    ctx.report(f"apt.{kind}: none of {', '.join(candidates)} has an address", ("apt", kind), Level.WARNING)
    return None


def entry_for(ctx: Context, entries: Any) -> dict[str, Any] | None:
    """Return the entry for this machine's architecture, else the one for `default`."""
    if not entries:
        return None
    for name in (architecture(ctx), "default"):
        for entry in entries:
            if name in entry["arches"]:
                return dict(entry)
    return None


def architecture(ctx: Context) -> str:
    """Return dpkg's name of this machine's architecture."""
    return ctx.host.ask(["dpkg", "--print-architecture"]).output.strip() or "amd64"


def regional(ctx: Context, facts: Distro) -> str | None:
    """Return the mirror of this EC2 region, where the distribution has one and it has an address."""
    region = ctx.instance.region or ""
    if not facts.apt.regional or ctx.instance.platform != "aws" or not re.fullmatch(REGION, region):
        return None
    uri = facts.apt.regional.format(region=region)
    return uri if resolves(ctx, uri) else None


def resolves(ctx: Context, uri: str) -> bool:
    """Tell whether the host of a URI has an address."""
    host = re.sub(r"^\w+://([^@/]*@)?|[:/].*$", "", uri)
    return bool(host) and ctx.host.ask(["getent", "ahosts", host], timeout=20).ok
