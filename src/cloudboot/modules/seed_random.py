"""seed_random: randomness for a young machine, from the owner and from the platform."""

from __future__ import annotations

import zlib

from cloudboot.actions import WriteFile
from cloudboot.errors import ConfigError
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.instance import Instance

POOL = "/dev/urandom"
CRAWLED = "/run/ec2/meta-data/random_seed"
SEEDED = "/run/cloudboot/seeded"  # a digest of what the kernel's pool got in this boot


def nothing_to_add(facts: Facts) -> bool:
    """Tell whether neither the configuration nor the metadata have a seed, or a command that makes one."""
    return not facts.config.get("random_seed") and not given_by_platform(facts.host, facts.instance)


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "random_seed": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "file": {"default": "/dev/urandom", "type": "string", "pattern": "^/", "x-form": "an absolute path"},
                "data": {"type": "string", "x-secret": True, "x-bytes": True},
                "encoding": {"default": "raw", "type": "string", "enum": ["raw", "base64", "b64", "gzip", "gz"]},
                "command": {"type": "array", "items": {"type": "string"}, "minItems": 1, "x-whole": True},
                "command_required": {"default": False, "type": "boolean"},
            },
            "examples": [
                {"data": "bXkgcmFuZG9tIHN0cmluZw==", "encoding": "b64"},
                {"command": ["sh", "-c", "head -c 512 /dev/hwrng > $RANDOM_SEED_FILE"], "command_required": True},
            ],
        }
    },
    keys=(),
    idle=nothing_to_add,
)
def seed_random(ctx: Context) -> None:
    """Add `data`, and the metadata's `random_seed`, to the kernel's random pool; then run `command`.

    `file` (/dev/urandom) is added to, never overwritten: a file that is not there yet is made, for root alone.
    `encoding` says what `data` is written in. The command finds the file's name in $RANDOM_SEED_FILE; that its program
    is missing counts as a failure only with `command_required: true`.
    """
    settings: dict[str, Any] = ctx.config.get("random_seed") or {}
    file = settings.get("file", POOL)
    seed = decoded(ctx, settings) + given_by_platform(ctx.host, ctx.instance)
    if seed:
        add(ctx, file, seed)
    run_command(ctx, settings, file)


def decoded(ctx: Context, settings: dict[str, Any]) -> bytes:
    """Return the owner's seed; nothing, and a report, if it is not in the encoding that it names."""
    from cloudboot import written_files

    raw = settings.get("data", "").encode("utf-8", "surrogateescape")
    encoding = settings.get("encoding", "raw")
    try:
        return written_files.decode(raw, encoding) if raw else b""
    except (ValueError, EOFError, OSError, zlib.error):  # their texts hold pieces of the seed
        ctx.report(f"random_seed.data: is not {encoding}: left out", ("random_seed", "data"))
        return b""


def given_by_platform(host: Host, instance: Instance) -> bytes:
    """Return the metadata's `random_seed`: of the crawl, else of the datasource in this very process."""
    given = instance.metadata.get("random_seed", "")
    return host.read(CRAWLED) or str(given).encode("utf-8", "surrogateescape")


def add(ctx: Context, file: str, seed: bytes) -> None:
    """Add a seed to the pool, or to the end of a file, unless that has it already. Raises OSError, ConfigError."""
    host, there = ctx.host, ctx.host.look(file)
    if there is not None and there.kind == "dir":
        raise ConfigError(f"random_seed.file: is a directory: {file!r}: name a file, or leave it out")
    if there is None or there.kind == "file":
        if file.startswith("/dev/"):
            told = f"random_seed.file: no such device: {file!r}: nothing is added"
            host.log.info(told) if not host.live else ctx.fail(told)
            return
        before = host.read(file) or b""
        if seed not in before:
            host.write(file, before + seed, mode=None if there else 0o600, owner=None)
        return
    from hashlib import sha256

    digest = sha256(file.encode() + b"\0" + seed).hexdigest()
    if host.text(SEEDED) == digest:
        return
    words = ["dd", f"of={file}", "conv=notrunc", "oflag=append", "status=none"]
    if host.run(words, stdin=seed, live="the random pool is the running machine's"):
        host.keep(WriteFile(SEEDED, digest.encode(), 0o600))


def run_command(ctx: Context, settings: dict[str, Any], file: str) -> None:
    """Run the owner's command, if its program is there."""
    command, required = settings.get("command"), settings.get("command_required", False)
    if not command:
        if required:
            ctx.report("random_seed.command_required: there is no command", ("random_seed", "command_required"))
        return
    if ctx.host.which(command[0]) is None:
        if required:
            ctx.fail(f"random_seed.command: {command[0]!r}: not found: install the package that holds it")
        else:
            ctx.host.log.info(f"random_seed.command: {command[0]}: not found: not run (command_required is false)")
        return
    ctx.commands.script("random_seed", command, env={"RANDOM_SEED_FILE": file})
