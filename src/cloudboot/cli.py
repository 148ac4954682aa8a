"""The verbs. Each imports what it needs when it is called."""

from __future__ import annotations

import os
import sys

from cloudboot.errors import CloudbootError, LockBusy, UsageError
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from cloudboot.host import Host

OK, FAILED, DEGRADED, TIMED_OUT, USAGE = 0, 1, 2, 3, 64
STAGES = ("local", "network", "config", "final")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit status: 0 well, 1 failed, 2 recoverable trouble, 3 timed out, 64 bad usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["boot"] and (len(words) == 1 or (len(words) == 3 and words[1] == "--stage")):
            return _boot_now(words[2:])  # as the units call it: argparse costs 10 ms
        arguments = _parser(words[:1]).parse_args(words)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except UsageError as error:
        print(f"cloudboot: {error}", file=sys.stderr)
        return USAGE
    except CloudbootError as error:
        print(f"cloudboot: {error}", file=sys.stderr)
        return FAILED
    except PermissionError as error:
        print(f"cloudboot: {error.filename or error}: permission denied: run as root", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        return 130


def _parser(verb_words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the verb that is called loads what declares its options."""
    import argparse

    from cloudboot import __version__

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UsageError(f"{message} (see `{self.prog} --help`)")

    parser = Parser(prog="cloudboot", description="Early-boot agent for EC2 and UEC-like clouds.")
    parser.add_argument("--version", action="version", version=f"cloudboot {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, *, root: bool = False) -> Parser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(run=run)
        if root:
            added.add_argument("--root", metavar="DIR", default="/", help="work on this image tree instead of /")
        return added

    boot = verb("boot", _boot, "run the stages of a boot, in order; what is settled is skipped", root=True)
    boot.add_argument("--stage", choices=STAGES, help="only this stage")
    boot.add_argument("--run-commands", action="store_true", help="with --root: run the owner's commands in a chroot")
    single = verb("single", _single, "run one module now and record it", root=True)
    single.add_argument("--module", required=True, metavar="NAME", help="the module (mounts, ssh, runcmd …)")
    single.add_argument(
        "--frequency", metavar="F", help="decide as a boot would under per-instance, per-boot, always or once"
    )
    single.add_argument("--user-data", metavar="FILE", help="merge this user data on top, for this run")
    single.add_argument("--from", dest="resume_from", type=int, metavar="N", help="runcmd: begin with item N")
    single.add_argument("--run-commands", action="store_true", help="with --root: run the owner's commands in a chroot")
    status = verb("status", _status, "say where the boot is, what ran, what failed and why", root=True)
    status.add_argument("--wait", action="store_true", help="wait until no job of ours runs or is queued")
    status.add_argument("--timeout", type=float, metavar="S", help="with --wait: give up after S seconds (exit 3)")
    status.add_argument("--long", action="store_true", help="also the modules and what was recoverable")
    status.add_argument("--format", choices=("text", "json"), default="text")
    why = verb("why", _why, "say in one sentence whether a module runs and why", root=True)
    why.add_argument("module", metavar="MODULE")
    plan = verb("plan", _plan, "show what the next boot, or a new instance, would change; changes nothing", root=True)
    query = verb("query", _query, "show the crawled metadata, the merged configuration, the user data", root=True)
    disks = verb(
        "disks", _disks, "show every disk: its EC2 name, its volume, what is on it; how it was found", root=True
    )
    consume = verb("consume", _consume, "show what attached volumes say they are for, and what becomes of it")
    schema = verb("schema", _schema, "check user data: line, column, what is meant; on any machine")
    lockdown = verb("lockdown", _lockdown, "prove, apply or lift the firewall on the metadata service")
    lease = verb("lease", _lease, "say when this machine's lease ends, move the end, take it back")
    bake = verb("bake", _bake, "install the agent and its units into an image tree and enable them")
    imds = verb("imds", _imds, "serve EC2 metadata to test against: IMDSv1/v2, IPv4/IPv6, latency, faults")
    demo = verb("demo", _demo, "run the main job against a built-in imds and a scratch root; changes nothing here")
    demo.add_argument("--keep", metavar="DIR", help="use this directory as the scratch root and keep it")
    if "plan" in verb_words:
        from cloudboot import planning

        planning.add_arguments(plan)
    if "query" in verb_words:
        from cloudboot import query as query_verb

        query_verb.add_arguments(query)
    if "disks" in verb_words:
        from cloudboot import disks_verb

        disks_verb.add_arguments(disks)
    if "consume" in verb_words:
        from cloudboot import consume_verb

        consume_verb.add_arguments(consume)
    if "schema" in verb_words:
        from cloudboot import check

        check.add_arguments(schema)
    if "lockdown" in verb_words:
        from cloudboot import lockdown as lockdown_verb

        lockdown_verb.add_arguments(lockdown)
    if "lease" in verb_words:
        from cloudboot import lease_verb

        lease_verb.add_arguments(lease)
    if "bake" in verb_words:
        from cloudboot import bake as bake_verb

        bake_verb.add_arguments(bake)
    if "imds" in verb_words:
        from cloudboot.imds import serve

        serve.add_arguments(imds)
    return parser


# -- boot and single


def open_host(
    root: str = "/", *, run_commands: bool = False, echo: bool = True, console: bool = False, keep_log: bool = True
) -> Host:
    """Return the door to this machine or to an image tree. Raises UsageError if there is no such directory.

    `keep_log` False writes neither log nor audit: questions, and what is done to an image that has not lived yet.
    """
    from cloudboot.host import Host
    from cloudboot.log import Log
    from cloudboot.root import Root

    if not os.path.isdir(root):
        raise UsageError(f"--root: no such directory: {root!r}")
    tree = Root(root)
    log = Log(tree, echo=echo, console=console, keep=keep_log)
    return Host(tree, log, run_commands=run_commands)


def _need_root(host: Host, verb: str) -> None:
    if host.live and not host.root.privileged:
        raise CloudbootError(f"{verb}: must be run as root (or on an image tree with --root DIR)")


def _boot_now(stages: Sequence[str]) -> int:
    from cloudboot.module import Stage

    if stages and stages[0] not in STAGES:
        raise UsageError(f"--stage: must be one of {', '.join(STAGES)}: {stages[0]!r}")
    return _run_boot(open_host(console=True), [Stage(name) for name in stages or STAGES])


def _boot(arguments: argparse.Namespace) -> int:
    from cloudboot.module import Stage

    host = open_host(arguments.root, run_commands=arguments.run_commands)
    return _run_boot(host, [Stage(arguments.stage)] if arguments.stage else [Stage(name) for name in STAGES])


def _run_boot(host: Host, stages: list[Any]) -> int:
    from cloudboot.boot import Boot
    from cloudboot.lock import locked

    _need_root(host, "boot")
    with locked(host, f"boot {' '.join(stages)}"):
        return OK if Boot(host).run(stages) else FAILED


def _single(arguments: argparse.Namespace) -> int:
    from cloudboot.lock import locked
    from cloudboot.module import parse_frequency
    from cloudboot.single import run_single

    frequency = None
    if arguments.frequency is not None:
        frequency = parse_frequency(arguments.frequency)
        if frequency is None:
            raise UsageError(f"--frequency: must be per-instance, per-boot, always or once: {arguments.frequency!r}")
    user_data = None
    if arguments.user_data is not None:
        try:
            with open(arguments.user_data, "rb") as file:
                user_data = file.read()
        except OSError as error:
            raise UsageError(f"--user-data: {arguments.user_data}: {error.strerror}") from None
    host = open_host(arguments.root, run_commands=arguments.run_commands)
    _need_root(host, "single")
    with locked(host, f"single --module {arguments.module}", wait=10.0):
        return run_single(host, arguments.module, frequency, user_data, arguments.resume_from)


# -- status and why


def _status(arguments: argparse.Namespace) -> int:
    from cloudboot.report import status_verb

    return status_verb(
        open_host(arguments.root, echo=False, keep_log=False),
        wait=arguments.wait,
        timeout=arguments.timeout,
        long=arguments.long,
        json_output=arguments.format == "json",
    )


def _why(arguments: argparse.Namespace) -> int:
    from cloudboot.single import why_sentence

    host = open_host(arguments.root, echo=False, keep_log=False)
    _need_root(host, "why")
    print(why_sentence(host, arguments.module))
    return OK


# -- the others


def _schema(arguments: argparse.Namespace) -> int:
    from cloudboot import check

    return check.run(arguments, sys.stdout.write)


def _plan(arguments: argparse.Namespace) -> int:
    import io

    from cloudboot import planning

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where the terminal's letters are few
    return planning.run(arguments, open_host(arguments.root, echo=False, keep_log=False), sys.stdout.write)


def _query(arguments: argparse.Namespace) -> int:
    from cloudboot import query

    status = query.run(arguments, open_host(arguments.root, echo=False, keep_log=False), sys.stdout.buffer.write)
    sys.stdout.flush()
    return status


def _disks(arguments: argparse.Namespace) -> int:
    from cloudboot import disks_verb

    return disks_verb.run(arguments, open_host(arguments.root, echo=False, keep_log=False), sys.stdout.write)


def _consume(arguments: argparse.Namespace) -> int:
    from cloudboot import consume_verb

    host = open_host(echo=False, keep_log=arguments.device is not None)
    return consume_verb.run(arguments, host, sys.stdout.write)


def _lockdown(arguments: argparse.Namespace) -> int:
    from cloudboot import lockdown
    from cloudboot.single import kept_config

    host = open_host()
    config = kept_config(host) if host.root.privileged else {}
    return lockdown.run(arguments, host, config, sys.stdout.write, lambda text: print(text, file=sys.stderr))


def _lease(arguments: argparse.Namespace) -> int:
    from cloudboot import lease_verb

    asking = arguments.action == "status"
    host = open_host(console=arguments.action in ("end", "extend", "cancel"), echo=not asking, keep_log=not asking)
    _need_root(host, "lease")
    return lease_verb.run(arguments, host, sys.stdout.write)


def _bake(arguments: argparse.Namespace) -> int:
    from cloudboot import bake

    return bake.run(arguments)


def _imds(arguments: argparse.Namespace) -> int:
    from cloudboot.imds import serve

    return serve.run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from cloudboot import demo

    return demo.run(arguments.keep)


__all__ = ["LockBusy", "main", "open_host"]

if __name__ == "__main__":
    sys.exit(main())
