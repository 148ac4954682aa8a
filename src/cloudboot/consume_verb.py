"""`cloudboot consume`: the volumes that are attached, what each holds and says, and what becomes of it.

With --init, the vendor's side: write the identity file of a volume, and sign it.
"""

from __future__ import annotations

import os
import sys

from cloudboot import blank, disks, root_volume, signatures, store, volume_programs, volume_reader, volumes
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.identity_file import parse
from cloudboot.instance import LINK
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from cloudboot.host import Host
    from cloudboot.volumes import Volume

HEAD = ("DEVICE", "VOLUME", "HOLDS", "STATE", "LABEL", "SAYS", "VERDICT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--device", metavar="DEV", help="consume this device now, as when it is attached (root)")
    parser.add_argument(
        "--initramfs", action="store_true", help="print the image's policy for roots, for the hook of initramfs-tools"
    )
    vendor = parser.add_argument_group("for vendors")
    vendor.add_argument("--init", metavar="DEV", help="write the identity file of this volume (or into a directory)")
    vendor.add_argument("--identity", metavar="FILE", help="with --init: what it says (YAML); '-': standard input")
    vendor.add_argument("--sign", metavar="KEY", help="with --init: sign it with this SSH private key (ssh-keygen -Y)")


def run(arguments: argparse.Namespace, host: Host, write: Callable[[str], object]) -> int:
    """Do what the options say; return the exit status. Raises UsageError, CloudbootError."""
    if arguments.init is not None:
        return init(arguments, host, write)
    if arguments.identity or arguments.sign:
        raise UsageError("--identity and --sign go with --init")
    if arguments.device is not None:
        return one(host, arguments.device)
    if arguments.initramfs:
        write(root_volume.policy_text(store.image(host)[0].value))
        return 0
    return show(host, write, as_json=arguments.format == "json")


# -- what is attached


def show(host: Host, write: Callable[[str], object], *, as_json: bool) -> int:
    """Write what each device holds and what comes of it; nothing is done. Without a policy no file is read."""
    from cloudboot.single import kept_config

    if not host.live:
        raise CloudbootError("consume: an image tree has no machine's volumes")
    if not host.root.privileged:
        raise CloudbootError("consume: must be run as root: it reads devices")
    config = kept_config(host)
    policy = volumes.policy_of(config)
    known = disks.Disks(host, {})
    found = volumes.survey(known, policy, volumes.tags_of(host, LINK)) if policy else volumes.classes(known)
    if as_json:
        import json

        document = {"policy": policy is not None, "volumes": [_document(host, each) for each in found]}
        write(json.dumps(document, indent=1) + "\n")
        return 0
    write(table([HEAD, *(_cells(host, each) for each in found)]))
    if policy is None:
        write("The configuration has no consume: no file of any volume is read.\n")
    return 0


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as text with aligned columns; the last one is as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    widths.append(0)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cells(host: Host, volume: Volume) -> tuple[str, ...]:
    content, identity = volume.found.content, volume.identity
    says = f"{identity.action}{', signed' if volume.signed else ''}" if identity else ""
    holds = (content.kind, content.state if content.state != "unknown" else "", content.label)
    if volume.found.use is not None:
        known = blank.content(host, volume.name)
        holds = (known.kind, "", known.label)
    return (volume.name, volume.volume, *holds, says, outcome(host, volume))


def outcome(host: Host, volume: Volume) -> str:
    """Return in words what has become of a volume, or will at the next boot."""
    if volume.state is not volumes.State.ACCEPTED or volume.identity is None:
        return volume.verdict
    if volume.identity.action == "run":
        marker = volume_programs.marker(host, LINK, volume)
        return f"accepted: its program has run ({marker.state})" if marker else "accepted: its program has not run yet"
    return f"consumed: {volume.found.use}" if volume.found.use else volume.verdict


def _document(host: Host, volume: Volume) -> dict[str, Any]:
    content, identity = volume.found.content, volume.identity
    looked = volume.state is not volumes.State.IN_USE
    return {
        "name": volume.name,
        "volume": volume.volume or None,
        "class": content.kind if looked else None,
        "state": content.state if looked else None,
        "label": content.label or None,
        "uuid": content.uuid or None,
        "detail": content.detail or None,
        "identity": identity._asdict() if identity is not None else None,
        "signed": volume.signed,
        "verdict": str(volume.state),
        "reason": volume.reason or None,
        "outcome": outcome(host, volume),
    }


# -- a device that was attached


def one(host: Host, device: str) -> int:
    """Consume one device, as this instance's configuration says; 0 also where that says nothing."""
    from cloudboot import modules
    from cloudboot.boot import Boot
    from cloudboot.lock import locked
    from cloudboot.modules import consume
    from cloudboot.runner import Decision, Timing
    from cloudboot.status import RESULT

    if not host.root.privileged:
        raise CloudbootError("consume: must be run as root")
    with locked(host, f"consume --device {device}"):
        name = disks.kernel_name(host, device)
        if name is None:
            raise CloudbootError(f"consume: no such device: {device!r}")
        boot = Boot(host)
        runner = boot.runner()
        if runner is None or not runner.config.value.get("consume"):
            host.log.info(f"consume: {device}: the configuration has no consume: not looked at")
            return 0
        host.log.context = "attached"
        well = True
        names = [name, *blank.parts(host, name)]
        only = modules.load("consume")._replace(
            function=lambda ctx: consume.apply(ctx, disks.Disks(host, dict(ctx.instance.devices)), names)
        )
        for module in (only, modules.load("consume_programs")):
            if module.idle is None or host.listdir(volume_programs.QUEUE):
                timing = Timing(module.frequency, "the module's default")
                well = runner.run(module, timing, Decision(True, f"{name} was attached")) and well
        runner.store_results()
        if host.exists(RESULT):
            boot.status.finish()
    return 0 if well else 1


# -- the vendor's side


def init(arguments: argparse.Namespace, host: Host, write: Callable[[str], object]) -> int:
    """Write an identity file with the digests of what it runs, and sign it. Raises UsageError, CloudbootError."""
    if arguments.identity is None:
        raise UsageError("--init: --identity FILE says what to write ('-': standard input)")
    given = sys.stdin.buffer.read() if arguments.identity == "-" else _file(arguments.identity)
    place: str = arguments.init
    if os.path.isdir(place):
        return _write(host, place, given, arguments.sign, write)
    name = disks.kernel_name(host, place)
    if name is None:
        raise UsageError(f"--init: neither a device nor a directory: {place!r}")
    target = f"{signatures.FOLDER}/init-{name}"
    host.mkdir(target, mode=0o700)
    host.run(["mount", f"/dev/{name}", target], timeout=60)
    try:
        return _write(host, target, given, arguments.sign, write)
    finally:
        host.run(["umount", target], timeout=120)
        host.remove(target)


def _write(host: Host, folder: str, given: bytes, key: str | None, write: Callable[[str], object]) -> int:
    """Write the identity file into the root directory of a volume that is mounted here; sign it if there is a key."""
    content = with_digests(given, lambda path: _sha256(folder, path))
    path = f"{folder}/{volume_reader.IDENTITY}"
    host.write(path, content)
    write(f"{volume_reader.IDENTITY}: {parse(content).action}, {len(content)} bytes\n")
    if key is None:
        host.remove(f"{folder}/{volume_reader.SIGNATURE}")
        write("not signed: run and root are refused by machines, unless their owners say `unsigned: true`\n")
        return 0
    answer = host.ask(["ssh-keygen", "-Y", "sign", "-n", signatures.NAMESPACE, "-f", key], stdin=content)
    if not answer.ok or "-----BEGIN SSH SIGNATURE-----" not in answer.output:
        raise CloudbootError(f"--sign: {key}: {answer.output.strip() or 'ssh-keygen failed'}")
    signature = answer.output[answer.output.index("-----BEGIN") :]
    host.write(f"{folder}/{volume_reader.SIGNATURE}", signature)
    write(f"{volume_reader.SIGNATURE}: signed with {key}\n")
    return 0


def with_digests(given: bytes, sha256: Callable[[str], str]) -> bytes:
    """Return an identity file with the digests of its program and of `files`. Raises CloudbootError."""
    import yaml

    try:
        document = yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise UsageError(f"--identity: no YAML: {' '.join(str(error).split())}") from None
    job = document.get("run") if isinstance(document, dict) else None
    if isinstance(job, dict):
        files = job.pop("files", None) or []
        if not isinstance(files, list):
            raise UsageError("--identity: run.files: must be a list of paths on the volume")
        paths = [job.get("program"), *files]
        job["digests"] = {str(path): sha256(str(path)) for path in paths if path}
    content = yaml.safe_dump(document, sort_keys=False).encode()
    parse(content)  # what no machine would read is not written
    return content


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"--identity: {path}: {error.strerror}") from None


def _sha256(folder: str, path: str) -> str:
    """Return a file's SHA-256, as a machine will find it: by the same rules."""
    from cloudboot import volume_worker

    volume = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = volume_worker.hashed(volume, path)
    finally:
        os.close(volume)
    if "error" in found:
        raise UsageError(f"--identity: {path}: {found['error']}")
    return str(found["sha256"])
