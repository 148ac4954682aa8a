"""The verb `cloudboot imds`: its arguments, and the simulator in the foreground."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from cloudboot.errors import UsageError
from cloudboot.imds import faults, simulator, tree
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

DEFAULT_LISTEN = "127.0.0.1:1338"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cloudboot imds`."""
    parser.description = (
        "Serve EC2 instance metadata to test an image against: IMDSv2 only, unless told otherwise. "
        "SIGHUP reads the files again, SIGINT and SIGTERM stop it."
    )
    add = parser.add_argument
    add("--listen", action="append", metavar="ADDR:PORT", help=f"repeatable; [ADDR]:PORT for IPv6 ({DEFAULT_LISTEN})")
    versions = parser.add_mutually_exclusive_group()
    versions.add_argument("--v1", action="store_true", help="answer without a token too (IMDSv1)")
    versions.add_argument("--v1-only", action="store_true", help="know no tokens, as UEC does")
    add("--uec", action="store_true", help="a private cloud's tree: no dynamic, sd names, ephemeral without a number")
    add("--hop-limit", type=int, default=1, metavar="N", help="IP TTL of the token's answer (1; containers need more)")
    add("--instance-id", metavar="ID")
    add("--launch-index", type=int, default=0, metavar="N")
    add("--hostname", metavar="NAME")
    add("--ssh-key", action="append", metavar="FILE|KEY", help="a public key or a file of them; repeatable")
    add("--user-data", metavar="FILE")
    add("--metadata", metavar="FILE", help="JSON, laid over the default tree; null removes")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="of every answer")
    add("--fault", action="append", metavar="SPEC", help="repeatable; see --list-faults")
    add("--list-faults", action="store_true", help="say what SPEC can be, and stop")
    add("--log", metavar="FILE", help="append one JSON line for each request; tokens are left out")
    add("--ready-file", metavar="FILE", help="written when connections are accepted: one ADDR:PORT a line")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Return the exit status. Raise UsageError, or CloudbootError if it cannot start."""
    if args.list_faults:
        print(faults.SPECS)
        return 0
    options = options_of(args)
    ours = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    # Blocked before the threads start, which inherit it: the signals wait for sigwait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    try:
        with simulator.serve(options) as service:
            where = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in service.listening]
            if args.ready_file:
                _write_whole(args.ready_file, "".join(f"{line}\n" for line in where))
            print(f"imds: {options.machine.instance_id} on {', '.join(where)}", file=sys.stderr, flush=True)
            while signal.sigwait(ours) == signal.SIGHUP:
                _reload(service, args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if args.ready_file:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(args.ready_file)
    return 0


def options_of(args: argparse.Namespace) -> simulator.Options:
    """Turn the arguments into options. Raise UsageError for what cannot be used."""
    try:
        specs = tuple(faults.parse(spec) for spec in args.fault or [])
    except ValueError as error:
        raise UsageError(f"imds: {error}") from None
    if not 1 <= args.hop_limit <= 255:
        raise UsageError(f"imds: --hop-limit: not between 1 and 255: {args.hop_limit}")
    if args.launch_index < 0 or args.latency < 0:
        raise UsageError("imds: --launch-index and --latency: not below 0")
    default_id = "i-1a2b3c4d" if args.uec else tree.Machine().instance_id
    machine = tree.Machine(
        instance_id=args.instance_id or default_id,
        launch_index=args.launch_index,
        hostname=args.hostname or "",
        ssh_keys=tuple(_keys(args.ssh_key)) if args.ssh_key else (tree.KEY,),
        uec=args.uec,
    )
    over, user_data = _files(args)
    return simulator.Options(
        listen=tuple(_address(text) for text in args.listen or [DEFAULT_LISTEN]),
        v1=args.v1,
        v1_only=args.v1_only,
        hop_limit=args.hop_limit,
        machine=machine,
        tree=over,
        user_data=user_data,
        latency=args.latency,
        faults=specs,
        log=args.log,
    )


def _reload(service: simulator.Simulator, args: argparse.Namespace) -> None:
    try:
        over, user_data = _files(args)
    except UsageError as error:  # a file that is being edited must not end the service
        print(f"{error}; the old data is served on", file=sys.stderr, flush=True)
        return
    service.update(tree=over, user_data=user_data, keep_user_data=False)


def _files(args: argparse.Namespace) -> tuple[dict[str, Any] | None, bytes | None]:
    user_data = _read(args.user_data) if args.user_data else None
    if not args.metadata:
        return None, user_data
    try:
        over = json.loads(_read(args.metadata))
    except ValueError as error:
        raise UsageError(f"imds: {args.metadata}: not JSON: {error}") from None
    if not isinstance(over, dict) or not set(over) <= {"meta-data", "dynamic"}:
        raise UsageError(f'imds: {args.metadata}: expected {{"meta-data": {{…}}, "dynamic": {{…}}}}')
    return over, user_data


def _keys(given: list[str]) -> list[str]:
    keys: list[str] = []
    for text in given:
        lines = _read(text).decode().splitlines() if os.path.exists(text) else [text]
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    wrong = [key for key in keys if len(key.split()) < 2]
    if wrong or not keys:
        raise UsageError(f"imds: --ssh-key: neither a file nor a public key: {(wrong or given)[0]!r}")
    return keys


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise UsageError(f"imds: --listen: expected ADDR:PORT or [ADDR]:PORT: {text!r}")
    return host.strip("[]"), int(port)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"imds: {path}: {error.strerror}") from None


def _write_whole(path: str, text: str) -> None:
    draft = f"{path}.new"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(draft, path)
