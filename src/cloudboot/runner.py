"""Run the modules of a stage: decide, do, note, next.

`why` is pure: it decides from values alone, and its sentence is what `cloudboot why` says. The only broad `except` of
the program stands here: whatever a module raises becomes its result, and the next one runs.
"""

from __future__ import annotations

import os
import time

from cloudboot.actions import WriteFile
from cloudboot.commands import INTERRUPTED, OUTPUT, Commands, load_outcomes
from cloudboot.errors import CloudbootError, ConfigError, NeedsNetwork
from cloudboot.instance import Kind
from cloudboot.ledger import Marker, State
from cloudboot.module import Context, Facts, Frequency, Module, Stage, canonical_name, parse_frequency
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudboot.config import Config, Layer
    from cloudboot.host import Host
    from cloudboot.http import Fetcher
    from cloudboot.instance import Instance
    from cloudboot.ledger import Ledger
    from cloudboot.problem import Pointer
    from cloudboot.status import Status

LISTS = {
    Stage.NETWORK: "cloud_init_modules",
    Stage.CONFIG: "cloud_config_modules",
    Stage.FINAL: "cloud_final_modules",
}
# cloud-init lists runcmd in the config stage (where it only writes the script) and runs it in the final one.
LISTED_ELSEWHERE = {"runcmd": "cloud_config_modules"}
# cloud-init has nothing like them: no list that was written for it can name them, or means to leave them out.
NEVER_LISTED = frozenset({"consume", "consume_programs", "growfs", "instance_store", "kernel_hold"})
NOT_EXECUTABLE = 126  # posix_spawn's ENOEXEC and EACCES, as the shell says it
NAMES = {
    Frequency.ONCE: "on this disk",
    Frequency.INSTANCE: "for this instance",
    Frequency.BOOT: "in this boot",
    Frequency.ALWAYS: "at all",
}


class Timing(NamedTuple):
    """A frequency and who set it."""

    frequency: Frequency
    set_by: str


class Decision(NamedTuple):
    """Run or not, and the reason as the end of a sentence. `resume`: an interrupted run is taken up."""

    run: bool
    reason: str
    resume: bool = False


def timing(module: Module, layers: Sequence[Layer], command_line: Frequency | None = None) -> Timing:
    """Return a module's frequency: our command line, each layer (`frequency:` before lists), the module's default."""
    if command_line is not None:
        return Timing(command_line, "the command line")
    for layer in layers:
        for name, word in (layer.value.get("frequency") or {}).items():
            frequency = parse_frequency(word)
            if canonical_name(name) == module.name and frequency is not None:
                return Timing(frequency, f"{layer.set_by} (frequency)")
        for key in LISTS.values():
            for name, word in map(_list_entry, layer.value.get(key) or ()):
                frequency = parse_frequency(word)
                if name == module.name and frequency is not None:
                    return Timing(frequency, f"{layer.set_by} ({key})")
    return Timing(module.frequency, "the module's default")


def select(stage: Stage, modules: Sequence[Module], config: dict[str, Any]) -> tuple[list[Module], dict[str, str]]:
    """Return the modules of a stage in run order, and those that a module list leaves out, with the reason.

    A list of the owner's selects and orders, as in cloud-init; what the login hangs on always runs.
    """
    own = [module for module in modules if module.stage is stage]
    given = {
        key: [_list_entry(entry)[0] for entry in config[key]] for key in LISTS.values() if config.get(key) is not None
    }
    left_out: dict[str, str] = {}
    kept: list[Module] = []
    everywhere = [name for names in given.values() for name in names]
    for each in own:
        home = LISTED_ELSEWHERE.get(each.name, LISTS.get(stage, ""))
        if home in given and each.name not in everywhere and not each.essential and each.name not in NEVER_LISTED:
            left_out[each.name] = f"is not in {home}"
        else:
            kept.append(each)
    if given:
        default = {module.name: number for number, module in enumerate(own)}
        kept.sort(key=lambda each: _rank(each.name, everywhere, default))
    return kept, left_out


def _rank(name: str, listed: list[str], default: dict[str, int]) -> tuple[float, int]:
    if name in listed:
        return (listed.index(name), 0)
    # An essential module that the list forgot keeps its place among those before it.
    before = [listed.index(other) for other in default if other in listed and default[other] < default[name]]
    return (max(before, default=-1) + 0.5, default[name])


def why(
    module: Module,
    when: Timing,
    *,
    keys: frozenset[str],
    marker: Marker | None,
    kind: Kind,
    distro: str = "",
    digest: str = "",
    rerun_on_change: bool = False,
    instance: str = "",
) -> Decision:
    """Decide whether a module runs, from values alone.

    keys: the configuration's top-level keys. marker: its semaphore under this frequency. instance: this one's id.
    """
    if module.keys and not keys & set(module.keys):
        return Decision(False, f"the configuration has no {' or '.join(module.keys)}")
    if module.distros and distro and distro not in module.distros:
        return Decision(False, f"it is not for {distro}, only for {', '.join(module.distros)}")
    if kind in (Kind.UNKNOWN, Kind.NEW_WITHOUT_DATA) and when.frequency in (Frequency.INSTANCE, Frequency.ONCE):
        return Decision(False, "the metadata service is silent: it is not known whether this is a new instance")
    if when.frequency is Frequency.ALWAYS:
        return Decision(True, f"its frequency is always, set by {when.set_by}")
    if marker is None:
        return Decision(True, f"it has not run {NAMES[when.frequency]} yet ({when.frequency}, set by {when.set_by})")
    if marker.state is State.STARTED:
        return Decision(True, "its last run was interrupted", resume=not module.converges)
    if module.follows and marker.instance and marker.instance != instance:
        return Decision(
            True, f"the root's volume was attached to {marker.instance} when it ran, and is to {instance} now"
        )
    if rerun_on_change and digest and marker.digest and marker.digest != digest:
        return Decision(True, "its configuration has changed since it ran (rerun_on_change)")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(marker.time))
    return Decision(
        False,
        f"it {'ran' if marker.state is State.DONE else 'failed'} {NAMES[when.frequency]} at {stamp} "
        f"({when.frequency}, set by {when.set_by})",
    )


class Runner:
    """Runs modules on a machine (or tree) for one instance with one configuration."""

    def __init__(
        self,
        host: Host,
        ledger: Ledger,
        config: Config,
        instance: Instance,
        modules: Sequence[Module],
        status: Status,
        fetcher: Fetcher,
        *,
        kind: Kind,
        image: dict[str, Any],
        distro: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.ledger = ledger
        self.config = config
        self.instance = instance
        self.modules = modules
        self.status = status
        self.fetcher = fetcher
        self.kind = kind
        self.image = image
        self.distro = distro
        self.clock = clock

    def decision(self, module: Module, command_line: Frequency | None = None) -> tuple[Timing, Decision]:
        """Return a module's frequency and whether it is due."""
        when = timing(module, self.config.layers, command_line)
        watched = {canonical_name(name) for name in self.config.value.get("rerun_on_change") or ()}
        return when, why(
            module,
            when,
            keys=frozenset(self.config.value),
            marker=self.ledger.find(module.name, when.frequency),
            kind=self.kind,
            distro=self.distro,
            digest=self.digest(module) if module.name in watched else "",
            rerun_on_change=module.name in watched,
            instance=self.instance.id,
        )

    def due(self, stage: Stage) -> list[Module]:
        """Return the modules of a stage that are to run and have not in this run of it."""
        chosen, _ = select(stage, self.modules, self.config.value)
        return [
            each
            for each in chosen
            if self.decision(each)[1].run and not self._idle(each) and not self._has_run(each, stage)
        ]

    def run_stage(self, stage: Stage, *, until: Callable[[Module], bool] | None = None) -> bool:
        """Run what is due in a stage, in order; `until` stops before the first module for which it is true.

        Returns False if a failure is to count for the boot (`on_error: fail`).
        """
        chosen, left_out = select(stage, self.modules, self.config.value)
        for name, reason in left_out.items():
            self.status.module(name, state="skipped", reason=reason, stage=stage)
        policies = {canonical_name(name): word for name, word in (self.config.value.get("on_error") or {}).items()}
        stopped_by, well, ran = "", True, False
        for module in chosen:
            when, decision = self.decision(module)
            if self._has_run(module, stage):
                continue
            if not decision.run:
                self._skipped(module, when, decision.reason)
                continue
            if self._idle(module):
                self._skipped(module, when, "there is nothing to do")
                continue
            if until is not None and until(module):
                break
            if stopped_by and not module.essential:
                self._skipped(module, when, f"{stopped_by} failed before it (on_error: stop)")
                continue
            ran = True
            if not self.run(module, when, decision):
                policy = policies.get(module.name, "continue")
                if policy in ("stop", "fail"):
                    stopped_by = stopped_by or module.name
                well = well and policy != "fail"
        if ran:
            self.store_results()
        return well

    def store_results(self) -> None:
        """Write results.json: what became of each module and of each command of the owner's, for root's eyes."""
        import json

        modules: dict[str, Any] = {}
        for name, facts in self.status.values["modules"].items():
            outcomes = load_outcomes(self.host, self.ledger.folder, name)
            commands = [entry for entries in outcomes.values() for entry in entries]
            modules[name] = {**facts, "commands": commands}
        results = {"boot": self.ledger.boot, "output": OUTPUT, "modules": modules}
        path = f"{self.ledger.folder}/results.json"
        try:
            self.host.keep(WriteFile(path, json.dumps(results, indent=1).encode(), 0o600))
        except OSError as error:
            self.status.recoverable(f"{path}: cannot be written: {error.strerror}")

    def run(self, module: Module, when: Timing, decision: Decision, *, resume_from: int | None = None) -> bool:
        """Run one module and record what became of it; return whether it succeeded.

        Raises NeedsNetwork where the stage has no network: nothing is noted then, a later stage runs it.
        """
        host, name = self.host, module.name
        policies = {canonical_name(key): word for key, word in (self.config.value.get("on_interrupt") or {}).items()}
        commands = Commands(
            host,
            self.ledger.folder,
            name,
            previous=load_outcomes(host, self.ledger.folder, name) if decision.resume else None,
            policy=policies.get(name, "stop"),
        )
        last = self.ledger.last(name)
        context = Context(
            host=host,
            config=self.config.value,
            instance=self.instance,
            image=self.image,
            commands=commands,
            fetcher=self.fetcher,
            marks=self.config.marks,
            first=self.ledger.first(name),
            name=name,
            resume_from=resume_from,
            datasource=self.instance.datasource,
        )
        digest = self.digest(module)
        outer, host.log.context = host.log.context, f"{host.log.context}/{name}".strip("/")
        host.log.info(f"runs: {decision.reason}")
        self.status.doing(name)
        # What runs every time and converges is run again whatever became of it: no need to wait for the disk first.
        unnoted = ""
        if when.frequency is not Frequency.ALWAYS or not module.converges or last is None:
            unnoted = self._note(module, when, State.STARTED, digest)
        changes, recorded, began = len(host.changes), len(host.recorded), self.clock()
        error = ""
        pointer: Pointer = ()
        try:
            if unnoted and not module.converges:
                raise CloudbootError(f"not run, it might be run twice: {unnoted}")
            module.function(context)
        except NeedsNetwork:
            host.log.context = outer
            raise
        except (CloudbootError, OSError) as raised:
            error = str(raised)
            if isinstance(raised, ConfigError):
                pointer = next(((key,) for key in module.reads if (key,) in self.config.marks), ())
        except Exception as raised:  # noqa: BLE001 - a module's bug may not keep the others from running
            error = _bug(raised)
            host.log.info(_trace(raised))
        if error:
            context.fail(error, pointer)
        failures = [*context.failures, *map(_command_failure, commands.failed)]
        state = State.FAILED if failures else State.DONE
        unnoted = self._note(module, when, state, digest) or unnoted
        if unnoted and module.converges:
            context.fail(unnoted)
            state = State.FAILED
        self._record(module, when, decision, state, context, commands, changes, recorded, began)
        host.log.context = outer
        return state is State.DONE

    def digest(self, module: Module) -> str:
        """Return a digest of the part of the configuration that a module reads."""
        import json
        import zlib

        part = {key: self.config.value[key] for key in module.reads if key in self.config.value}
        return f"{zlib.crc32(json.dumps(part, sort_keys=True, default=str).encode()):08x}"

    # -- how

    def _note(self, module: Module, when: Timing, state: State, digest: str) -> str:
        """Write a semaphore; return in words that it could not be, empty if it was.

        On a full disk what converges runs all the same: the login hangs on it.
        """
        try:
            self.ledger.note(module.name, when.frequency, state, digest=digest, set_by=when.set_by, stage=module.stage)
        except OSError as error:
            return f"that it ran cannot be noted: {error.strerror}"
        return ""

    def _has_run(self, module: Module, stage: Stage) -> bool:
        """Tell whether a module has run in this run of its stage, with the configuration as it is now."""
        if self.status.values["modules"].get(module.name, {}).get("stage_run") != self._stage_run(stage):
            return False
        last = self.ledger.last(module.name)
        return last is not None and last.digest == self.digest(module)

    def _idle(self, module: Module) -> bool:
        """Tell whether a module proves that there is nothing to do. It is not noted as run then."""
        facts = Facts(self.host, self.ledger.folder, self.config.value, self.instance)
        return module.idle is not None and module.idle(facts)

    def _stage_run(self, stage: Stage) -> int:
        return int(self.status.values["stages"].get(stage, {}).get("run", 0))

    def _skipped(self, module: Module, when: Timing, reason: str) -> None:
        self.host.log.info(f"{module.name}: not run: {reason}")
        known = self.status.values["modules"].get(module.name, {})
        if known.get("state") in ("done", "failed"):
            return  # it ran earlier in this boot: that is the news
        self.status.values["modules"][module.name] = {
            "state": "skipped",
            "reason": reason,
            "stage": module.stage,
            "frequency": when.frequency,
            "set_by": when.set_by,
        }

    def _record(
        self,
        module: Module,
        when: Timing,
        decision: Decision,
        state: State,
        context: Context,
        commands: Commands,
        changes: int,
        recorded: int,
        began: float,
    ) -> None:
        status, name = self.status, module.name
        status.forget(name)
        errors = [*context.failures]
        errors += [_command_failure(outcome) for outcome in commands.failed]
        for text in errors:
            status.error(text)
        for outcome in commands.failed:
            if outcome.state == INTERRUPTED:
                self._say_interrupted(name, outcome.item)
        for problem in context.problems:
            status.problem(problem)
        status.module(
            name,
            state=str(state),
            reason=decision.reason,
            stage=module.stage,
            stage_run=self._stage_run(module.stage),
            frequency=when.frequency,
            set_by=when.set_by,
            seconds=round(self.clock() - began, 3),
            changes=len(self.host.changes) - changes,
            recorded=len(self.host.recorded) - recorded,
            errors=errors,
            commands=[
                {"label": each.label, "item": each.item, "state": each.state, "status": each.status}
                for each in commands.outcomes
            ],
        )

    def _say_interrupted(self, name: str, item: int | None) -> None:
        again = f"cloudboot single --module {name}" + (f" --from {item}" if item else "")
        where = f" item {item}" if item else ""
        self.host.log.say(f"{name}{where} was interrupted and is not run again: `{again}` does")


def _command_failure(outcome: Any) -> str:
    where = outcome.label if outcome.item is None else f"{outcome.label} item {outcome.item}"
    how = f"exit status {outcome.status}" if outcome.state == "failed" else outcome.state
    if outcome.status == NOT_EXECUTABLE:
        how += ": cannot be executed: does it begin with '#!' and a program that is installed?"
    return f"{where}: {how}"


def _bug(raised: Exception) -> str:
    import traceback

    frame = traceback.extract_tb(raised.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return f"{type(raised).__name__} at {place}: a bug in cloudboot: please report it with /var/log/cloudboot.log"


def _trace(raised: Exception) -> str:
    import traceback

    # Places and types only: values may be secrets.
    return " < ".join(
        f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in traceback.extract_tb(raised.__traceback__)
    )


def _list_entry(entry: Any) -> tuple[str, object]:
    if isinstance(entry, str):
        return canonical_name(entry), None
    if isinstance(entry, list) and entry:
        return canonical_name(str(entry[0])), entry[1] if len(entry) > 1 else None
    if isinstance(entry, dict):
        return canonical_name(str(entry.get("name", ""))), entry.get("frequency")
    return "", None
