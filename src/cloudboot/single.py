"""Run one module by hand; say in one sentence why one runs or does not."""

from __future__ import annotations

import sys

from cloudboot import config as configuration
from cloudboot import consumed_root, modules, store
from cloudboot.boot import Boot
from cloudboot.crawl import schemas
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.module import Frequency, canonical_name
from cloudboot.runner import Decision, Timing, select
from cloudboot.status import RESULT, key
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.module import Module
    from cloudboot.problem import Problem


def run_single(
    host: Host, name: str, frequency: Frequency | None, user_data: bytes | None, resume_from: int | None
) -> int:
    """Run one module on the kept configuration of this instance; return the exit status.

    Without `frequency` it always runs and is recorded under the frequency it has; with it, it may be skipped.
    """
    module = find(name)
    boot = Boot(host)
    runner = boot.runner()
    if runner is None:
        raise CloudbootError(f"single --module {module.name}: no instance is known yet: run `cloudboot boot` first")
    if user_data is not None:
        runner.config = _with(host, boot, runner.config, user_data)
    when, decision = runner.decision(module, frequency)
    if frequency is not None and not decision.run:
        print(f"{module.name}: not run: {decision.reason}")
        return 0
    if frequency is None:
        decision = Decision(True, "asked for on the command line")
    if module.keys and not frozenset(runner.config.value) & set(module.keys):
        print(f"{module.name}: nothing to do: the configuration has no {' or '.join(module.keys)}")
        return 0
    host.log.context = "single"
    before = len(host.changes)
    well = runner.run(module, Timing(when.frequency, when.set_by), decision, resume_from=resume_from)
    runner.store_results()
    if host.exists(RESULT):
        boot.status.finish()
    facts = boot.status.values["modules"][module.name]
    print(f"{module.name}: {facts['state']}: {len(host.changes) - before} changes in {facts['seconds']} s")
    return 0 if well else 1


def why_sentence(host: Host, name: str) -> str:
    """Say whether a module ran or not, under which frequency, who set it, what would make it run."""
    said = _why(host, find(name))
    about_root = consumed_root.told(host) if canonical_name(name) == "consume" else ""
    return f"{said} {about_root}".rstrip()


def _why(host: Host, module: Module) -> str:
    boot = Boot(host)
    runner = boot.runner()
    if runner is None:
        return f"{module.name} has not run: no instance is known yet."
    again = f"`cloudboot single --module {module.name}` runs it now"
    _, left_out = select(module.stage, boot.modules, runner.config.value)
    if module.name in left_out:
        return f"{module.name} does not run: it {left_out[module.name]}; {again}."
    when, decision = runner.decision(module)
    ran = boot.status.values["modules"].get(module.name, {})
    if ran.get("state") in ("done", "failed"):
        interrupted = [each for each in ran.get("commands", ()) if each["state"] in ("interrupted", "not reached")]
        items = "".join(f"; {each['label']} item {each['item']} was {each['state']}" for each in interrupted)
        return (
            f"{module.name} ran in this boot ({ran['state']}), because {ran['reason']}{items}; it is {when.frequency}, "
            f"set by {when.set_by}; {again} again."
        )
    if decision.run and ran.get("state") == "skipped":
        return f"{module.name} did not run in this boot: {ran['reason']}; {again}."
    if decision.run:
        return (
            f"{module.name} has not run in this boot; it will in the {module.stage} stage: {decision.reason}; {again}."
        )
    always = f"`frequency: {{{module.name}: always}}` at every boot"
    return f"{module.name} did not run in this boot: {decision.reason}; {again}, {always}."


def kept_config(host: Host) -> dict[str, Any]:
    """Return this instance's merged configuration; the image's where no instance is known."""
    boot = Boot(host)
    runner = boot.runner()
    return runner.config.value if runner is not None else boot.image.value


def find(name: str) -> Module:
    """Return a module by any of its spellings. Raises UsageError with a suggestion if there is none."""
    plain = canonical_name(name)
    try:
        return modules.load(plain)
    except KeyError:
        import difflib

        close = difflib.get_close_matches(plain, modules.ORDER, 1)
        hint = f": did you mean {close[0]!r}?" if close else f": there are {', '.join(modules.ORDER)}"
        raise UsageError(f"no such module: {name!r}{hint}") from None


def _with(host: Host, boot: Boot, base: configuration.Config, user_data: bytes) -> configuration.Config:
    """Merge more user data on top, for one run; nothing of it is kept."""
    known = key(boot.status.values)
    current = store.load_instance(host, known) if known else None
    if current is None:
        return base
    extra = store.config(host, current, user_data, None, schemas(), keep=False)
    problems: list[Problem] = list(extra.problems)
    for problem in problems:
        print(f"cloudboot: {problem}", file=sys.stderr)
    top = extra.layers[0]
    return configuration.build([top._replace(set_by="the command line's user data"), *base.layers], schemas())
