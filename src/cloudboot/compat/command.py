"""The commands `cloud-init`, `cloud-id` and `cloud-init-per`, as scripts call them.

What it says is read from our own state. Its stages are no commands here: the units run ours.
"""

from __future__ import annotations

import os
import sys

from cloudboot.compat import VERSION
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cloudboot.host import Host

# Our word for the state of a boot -> its `status` and `extended_status`.
STATES = {
    "not started": ("not started", "not started"),
    "disabled": ("disabled", "disabled"),
    "running": ("running", "running"),
    "done": ("done", "done"),
    "degraded": ("done", "degraded done"),
    "error": ("error", "error - done"),
}
DISABLED, NOT_RUN = 2, 3  # of cloud-id
OURS = {
    "analyze": "cloudboot status --long",
    "collect-logs": "/var/log/cloudboot.log and cloudboot-output.log",
    "devel": "cloudboot plan, cloudboot query --format",
    "features": "cloudboot --help",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command asks for by whose name we are called (the first word); return its exit status."""
    words = list(sys.argv if argv is None else argv)
    name = os.path.basename(words[0])
    try:
        if name == "cloud-id":
            return cloud_id(_open(), _cloud_id_arguments().parse_args(words[1:]))
        if name == "cloud-init-per":
            return per(_open(), words[1:])
        arguments = _arguments().parse_args(words[1:])
        return int(arguments.run(arguments))
    except CloudbootError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"{name}: {error.filename or error}: permission denied: run as root", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(prog="cloud-init", description="cloudboot, by the words of cloud-init.")
    version = f"{sys.argv[0]} {VERSION}"  # a number alone: this is what scripts compare
    parser.add_argument("-v", "--version", action="version", version=version)
    parser.add_argument("-d", "--debug", action="store_true", help="accepted")
    parser.add_argument("--force", action="store_true", help="accepted")
    verbs = parser.add_subparsers(title="Subcommands", metavar="COMMAND", required=True)

    def verb(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run, name=name)
        return added

    status = verb("status", _status, "say where the boot is")
    status.add_argument("-w", "--wait", action="store_true", help="until the boot is over")
    status.add_argument("-l", "--long", action="store_true")
    status.add_argument("--format", choices=("tabular", "yaml", "json"), default="tabular")
    query = verb("query", _query, "show instance data")
    query.add_argument("varname", nargs="?", metavar="NAME", help="v1.region, ds.meta_data.instance_id, userdata …")
    query.add_argument("-a", "--all", action="store_true")
    query.add_argument("-l", "--list-keys", action="store_true")
    query.add_argument("-f", "--format", metavar="TEXT", help="a jinja template")
    query.add_argument("-d", "--debug", action="store_true", help="accepted")
    schema = verb("schema", _schema, "check user data")
    schema.add_argument("-c", "--config-file", metavar="FILE")
    schema.add_argument("--system", action="store_true", help="check this instance's user data")
    schema.add_argument("-t", "--schema-type", choices=("cloud-config",), default="cloud-config", help="accepted")
    schema.add_argument("--annotate", action="store_true", help="accepted: every line has its place")
    clean = verb("clean", _clean, "forget this instance: the next boot is a first one")
    clean.add_argument("-l", "--logs", action="store_true", help="remove the logs too")
    clean.add_argument("-s", "--seed", action="store_true", help="remove NoCloud's seed directory too")
    clean.add_argument("-r", "--reboot", action="store_true", help="reboot after it")
    clean.add_argument("--machine-id", action="store_true", help="make the machine-id `uninitialized`")
    kinds = ("all", "ssh_config", "network", "datasource", "fstab")
    clean.add_argument("-c", "--configs", nargs="+", choices=kinds, default=[], help="remove what was configured too")
    single = verb("single", _single, "run one module")
    single.add_argument("-n", "--name", required=True, metavar="MODULE")
    single.add_argument("--frequency", choices=("instance", "always", "once"))
    single.add_argument("--report", action="store_true", help="accepted")
    for name in ("init", "modules"):
        stage = verb(name, _stage, "nothing: cloudboot's units run the stages")
        stage.add_argument("-l", "--local", action="store_true", help="accepted")
        stage.add_argument("-m", "--mode", help="accepted")
        stage.add_argument("-f", "--file", action="append", help="accepted")
    for name, instead in OURS.items():
        verb(name, _elsewhere, f"not here: {instead}").add_argument("rest", nargs="*")
    return parser


def _open(*, changes: bool = False) -> Host:
    from cloudboot.cli import open_host

    return open_host(echo=changes, keep_log=changes)


# -- status


def _status(arguments: argparse.Namespace) -> int:
    return show_status(_open(), wait=arguments.wait, long=arguments.long, form=arguments.format)


def show_status(host: Host, *, wait: bool, long: bool, form: str) -> int:
    """Print the state of the boot; return 0, 1 after an error, 2 where something recoverable went wrong."""
    from cloudboot import report
    from cloudboot.status import RESULT, load

    if wait and host.live and report.own_unit(host) is None:
        report.wait_for_end(host)
    values = load(host)
    word, extended = STATES[report.describe(host, values)]
    if word == "error" and not host.exists(RESULT):
        extended = "error - running"
    told = _told(host, values, word, extended)
    if form == "json":
        import json

        print(json.dumps(told, indent=2, sort_keys=True))
    elif form == "yaml":
        import yaml

        print("---\n" + yaml.safe_dump(told, default_flow_style=False), end="")
    else:
        lines = [f"status: {word}"]
        if long:
            lines += [f"{name}: {told[name]}" for name in ("extended_status", "boot_status_code", "last_update")]
            lines += [f"detail: {told['detail']}"]
            lines += _listed("errors", told["errors"]) + _levels("recoverable_errors", told["recoverable_errors"])
        print("\n".join(lines))
    return {"error": 1, "degraded done": 2}.get(word if word == "error" else extended, 0)


def _told(host: Host, values: dict[str, Any], word: str, extended: str) -> dict[str, Any]:
    import time

    from cloudboot.compat import files

    stages = files.status(values, files.uptime(host), host.now())["v1"]
    source = stages.pop("datasource")
    updated = time.gmtime(values["updated"])
    return {
        "status": word,
        "extended_status": extended,
        "boot_status_code": "disabled-by-marker-file" if word == "disabled" else "enabled-by-generator",
        "datasource": (values["datasource"] or "").lower(),
        "detail": source or "",
        "errors": list(values["errors"]),
        "recoverable_errors": {"WARNING": list(values["recoverable"])} if values["recoverable"] else {},
        "last_update": time.strftime("%a, %d %b %Y %H:%M:%S +0000", updated) if values["updated"] else "",
        **stages,
    }


def _listed(name: str, items: list[str]) -> list[str]:
    return [f"{name}:", *(f"\t- {item}" for item in items)] if items else [f"{name}: []"]


def _levels(name: str, levels: dict[str, list[str]]) -> list[str]:
    if not levels:
        return [f"{name}: {{}}"]
    return [f"{name}:", *(line for level, items in levels.items() for line in _listed(level, items))]


# -- query, schema, single


def _query(arguments: argparse.Namespace) -> int:
    from cloudboot import query

    arguments.keys = [arguments.varname] if arguments.varname else []
    status = query.run(arguments, _open(), sys.stdout.buffer.write)
    sys.stdout.flush()
    return status


def _schema(arguments: argparse.Namespace) -> int:
    from cloudboot import check

    if bool(arguments.config_file) == arguments.system:
        raise UsageError("schema: say --config-file FILE or --system")
    path = arguments.config_file
    if arguments.system:
        host = _open()
        if not host.root.privileged:
            raise CloudbootError("schema --system: must be run as root")
        path = host.root.outside("/var/lib/cloudboot/instance/user-data")
    try:
        with open(path, "rb") as file:
            report = check.check(file.read(), path)
    except OSError as error:
        raise CloudbootError(f"schema: {path}: {error.strerror}") from None
    if report.problems:
        sys.stdout.write(check.as_text(report, path))
    if report.well:
        print(f"Valid schema {'user-data' if arguments.system else path}")
    return 0 if report.well else 1


def _single(arguments: argparse.Namespace) -> int:
    from cloudboot.lock import locked
    from cloudboot.module import parse_frequency
    from cloudboot.single import find, run_single

    host = _open(changes=True)
    if not host.root.privileged:
        raise CloudbootError("single: must be run as root")
    # Its `single` keeps to the module's own frequency where none is said; ours would run it.
    frequency = parse_frequency(arguments.frequency) if arguments.frequency else find(arguments.name).frequency
    with locked(host, f"single --name {arguments.name}", wait=10.0):
        return run_single(host, arguments.name, frequency, None, None)


def _clean(arguments: argparse.Namespace) -> int:
    from cloudboot.compat import clean
    from cloudboot.lock import locked

    host = _open(changes=not arguments.logs)  # else the removed log would be begun anew, to say so
    if not host.root.privileged:
        raise CloudbootError("clean: must be run as root")
    with locked(host, "clean", wait=10.0):
        clean.clean(
            host,
            logs=arguments.logs,
            seed=arguments.seed,
            machine_id=arguments.machine_id,
            configs=frozenset(arguments.configs),
        )
    if arguments.reboot:
        host.run(["systemctl", "reboot"], live="an image tree cannot reboot")
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    print(f"cloud-init {arguments.name}: nothing done: cloudboot's units run the stages", file=sys.stderr)
    return 0


def _elsewhere(arguments: argparse.Namespace) -> int:
    print(f"cloud-init {arguments.name}: not here: see {OURS[arguments.name]}", file=sys.stderr)
    return 1


# -- cloud-init-per


def per(host: Host, words: list[str]) -> int:
    """Run `FREQUENCY NAME COMMAND …` unless it has run (`once`, `instance`; `always` always does).

    Returns the command's exit status, 0 where it is not run. The mark is written whatever that was, as there.
    """
    from cloudboot.actions import MakeDir, WriteFile
    from cloudboot.compat import files

    if len(words) < 3 or words[0] not in ("always", "instance", "once") or "/" in words[1]:
        raise UsageError("say `cloud-init-per always|instance|once NAME COMMAND …`; a name has no slash")
    if not host.root.privileged:
        raise CloudbootError("must be run as root")
    frequency, name, *command = words
    folder = f"{files.INSTANCE if frequency == 'instance' else files.LIB}/sem"
    mark = f"{folder}/bootper.{name.replace('-', '_')}.{frequency}"
    if frequency != "always" and host.exists(mark):
        return 0
    if frequency == "instance":
        from cloudboot.instance import load_identity
        from cloudboot.status import load

        identity = load_identity(host)
        if identity is None:
            raise CloudbootError("no instance is known yet")
        files.adopt(host, identity.id, load(host)["instance"] or identity.id)
    ran = host.spawn(command, output=1)
    host.keep(MakeDir(folder))
    host.keep(WriteFile(mark, f"{ran.status}\t{int(host.now())}\n".encode()))
    return ran.status


# -- cloud-id


def _cloud_id_arguments() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(prog="cloud-id", description="Report the name of the cloud that this runs on.")
    parser.add_argument("-j", "--json", action="store_true", help="all of v1")
    parser.add_argument("-l", "--long", action="store_true", help="name and region")
    return parser


def cloud_id(host: Host, arguments: argparse.Namespace) -> int:
    """Print the cloud's id; return 2 where the agent is disabled, 3 where no boot has come as far."""
    from cloudboot import query, report
    from cloudboot.status import load

    state = report.describe(host, load(host))
    if state in ("disabled", "not started"):
        print(state)
        return DISABLED if state == "disabled" else NOT_RUN
    v1 = query.read(host).values["v1"]
    if arguments.json:
        import json

        print(json.dumps(v1, indent=1, sort_keys=True, separators=(",", ": ")))
    elif arguments.long:
        print(f"{v1['cloud_id']}\t{v1['region'] or 'n/a'}")
    else:
        print(v1["cloud_id"])
    return 0
