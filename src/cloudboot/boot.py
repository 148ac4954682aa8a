"""The stages of a boot, each a process of its own: when to crawl, when to lock down, which modules run.

A stage that has died is made up for by the next one, which finds it unfinished in status.json. What is proved to have
nothing to do gets a file in /run/cloudboot/skip, and systemd does not start it.
"""

from __future__ import annotations

import time

from cloudboot import compat, consumed_root, datasource, distro, instance, modules, store
from cloudboot.actions import MakeDir, Remove, WriteFile
from cloudboot.config import build
from cloudboot.crawl import Crawl, Known, schemas
from cloudboot.errors import CloudbootError, NeedsNetwork
from cloudboot.http import Fetcher
from cloudboot.instance import Kind
from cloudboot.ledger import Ledger
from cloudboot.module import Module, Stage
from cloudboot.route import wait_for_route
from cloudboot.runner import Runner
from cloudboot.status import RESULT, RUN, Status, verdict
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

SKIP = f"{RUN}/skip"
GRACE = 1.0  # seconds that the login waits for the service where only the service can tell a new machine from this one


class Boot:
    """One boot of a machine, or of an image tree; `run` does some of its stages."""

    def __init__(
        self,
        host: Host,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadline: float | None = None,
    ) -> None:
        self.host = host
        self.clock = clock
        self.status = Status(host)
        self.boot_id = Ledger(host, "").boot
        host.log.on_doing = self.status.doing
        if compat.installed(host):
            self.status.on_stage = self._publish
        self.modules = modules.declared()
        self.image, self.image_problems = store.image(host)
        self.crawl = Crawl(host, self.status, self.image.value, self.boot_id, deadline)
        self.well = True
        self.emptied: set[Stage] = set()  # proved to have nothing to do, by a stage before

    def run(self, stages: list[Stage]) -> bool:
        """Run stages in order. Returns False if one could not do its work."""
        work = {
            Stage.LOCAL: self.local,
            Stage.NETWORK: self.network,
            Stage.CONFIG: self.config,
            Stage.FINAL: self.final,
        }
        for stage in stages:
            if stage is not Stage.LOCAL and not self._finished(Stage.LOCAL):
                self._stage(Stage.LOCAL, self.local)
            if stage in (Stage.CONFIG, Stage.FINAL) and not self._finished(Stage.NETWORK):
                self._stage(Stage.NETWORK, self.network)
            if stage not in self.emptied:
                self._stage(stage, work[stage])
        return self.well

    # -- the stages

    def local(self) -> None:
        """Find out which machine this is without a packet; do what needs no network."""
        host, crawl = self.host, self.crawl
        fresh = self.status.values["boot"] != self.boot_id
        if fresh:
            self.status.reset(self.boot_id)
            host.keep(Remove(RESULT))
        host.keep(Remove(SKIP))
        self.status.stage(Stage.LOCAL, "started")
        consumed_root.report(host, self.status, crawl.root)
        for problem in self.image_problems:
            self.status.problem(problem)
        found = datasource.find(host, self.image.value)
        previous = instance.load_identity(host)
        if found is None:
            crawl.know(Known(Kind.UNKNOWN, None, None, ""))
            self.status.values["note"] = "not on EC2, and no other datasource: nothing to do"
            host.log.say(str(self.status.values["note"]))
            return
        if found.source.offline:
            try:
                crawl.fetch(found, online=False)
            except NeedsNetwork as error:
                host.log.info(f"{error}: the user data needs the network: put off to the network stage")
                return
            self._run_offline()
            return
        hardware = instance.hardware_id(host)
        decided = instance.decide(previous, hardware, None, crawl.root_key)
        crawl.know(Known(decided.kind, decided.id, found.source.name, found.platform), hardware)
        if decided.kind is Kind.SAME and not crawl.moved():
            self._run_offline()

    def network(self) -> None:
        """Crawl if that decides anything here; then what must precede logins and mounts.

        After a crawl, a config stage that has only light work is done here too: to start a process for it costs more.
        """
        self.status.stage(Stage.NETWORK, "started")
        crawl = self.crawl
        known, host = crawl.known(), self.host
        if known.source is None:
            return
        if crawl.done():
            pass
        elif crawl.source().source.offline:
            crawl.ask()
        elif known.kind is Kind.SAME:
            moved = crawl.moved()
            if moved or self._needs_crawl():
                unsure = moved and instance.hardware_id(host) is None
                crawl.ask(GRACE if unsure else None, last_try=not unsure)
        elif known.kind is not Kind.NEW:
            returning = known.kind is Kind.UNKNOWN and instance.load_identity(host) is not None
            crawl.ask(GRACE if returning else None, last_try=not returning)
        self._run(Stage.NETWORK)
        self._lock_down(early=True)
        loaded = crawl.load()
        access = {"metadata_access", "disable_ec2_metadata"} & set((loaded[1] if loaded else self.image).value)
        if crawl.done() and not access and all(module.light for module in self._due(Stage.CONFIG)):
            self._settle()
            self._prove_empty(Stage.CONFIG)

    def config(self) -> None:
        """Crawl if it has not been done; run the config stage."""
        self.status.stage(Stage.CONFIG, "started")
        crawl = self.crawl
        known = crawl.known()
        if known.source is None:
            return
        if not crawl.done():
            before = known.kind
            crawl.ask()
            # New already: the network stage had all of it, and could not keep it.
            if before is not Kind.NEW and (crawl.known().kind is Kind.NEW or crawl.changed):
                # The login was let through before the service could say that this is another machine, or that the
                # owner has changed the user data.
                self._run(Stage.NETWORK)
        self._settle()

    def _settle(self) -> None:
        """Let in whom the owner lets in, run the config stage, and the final one if it has only light work."""
        self._lock_down()
        self._run(Stage.CONFIG)
        if all(module.light for module in self._due(Stage.FINAL)):
            self._run(Stage.FINAL)
            self._prove_empty(Stage.FINAL)
            self._finish()

    def final(self) -> None:
        """Run the final stage, user scripts last, and write the result."""
        self.status.stage(Stage.FINAL, "started")
        if self.crawl.known().source is not None:
            self._run(Stage.FINAL)
        self._finish()

    # -- modules

    def runner(self, *, offline: bool = False) -> Runner | None:
        """Return a runner for the current instance; None if none is known yet."""
        loaded = self.crawl.load()
        if loaded is None:
            return None
        current, merged = loaded
        for problem in merged.problems:
            self.status.problem(problem)
        return Runner(
            self.host,
            Ledger(self.host, instance.folder(current.key), current.id),
            merged,
            current,
            self.modules,
            self.status,
            Fetcher(offline=offline),
            kind=self.crawl.known().kind,
            image=self.image_facts(),
            distro=distro.read(self.host).name,
            clock=self.clock,
        )

    def image_facts(self) -> dict[str, Any]:
        """Return the image's configuration with the distribution's default user where it names none."""
        facts = dict(self.image.value)
        named = facts.get("default_user") or (facts.get("system_info") or {}).get("default_user")
        facts["default_user"] = named or distro.read(self.host).default_user
        return facts

    def _run(self, stage: Stage) -> None:
        runner = self.runner()
        if runner is None:
            return
        self.host.log.context = str(stage)
        if self.host.live and not self.crawl.online() and any(module.network for module in runner.due(stage)):
            wait_for_route(self.host)
        self.well = runner.run_stage(stage) and self.well

    def _run_offline(self) -> None:
        """Run what needs neither network nor fresh metadata, in order, up to the first that does."""
        try:
            runner = self.runner(offline=not self.crawl.source().source.offline)
        except NeedsNetwork as error:
            self.host.log.info(f"{error}: needed for the user data: put off to the network stage")
            return
        if runner is None:
            return
        fetched = self.crawl.done()

        def needs_network(module: Module) -> bool:
            return module.network or module.late or (module.metadata and not fetched)

        try:
            for stage in (Stage.LOCAL, Stage.NETWORK):
                self.host.log.context = str(stage)
                self.well = runner.run_stage(stage, until=needs_network) and self.well
        except NeedsNetwork as error:
            self.host.log.info(f"{error}: needs the network: put off to the network stage")
        if not self._due(Stage.NETWORK):
            self._prove_empty(Stage.NETWORK)

    def _due(self, stage: Stage) -> list[Module]:
        runner = self.runner()
        return runner.due(stage) if runner is not None else []

    def _needs_crawl(self) -> bool:
        """Tell whether the network stage of a machine that is the same has to wait for the metadata."""
        try:
            return any(module.metadata for module in self._due(Stage.NETWORK))
        except NeedsNetwork:  # the image's configuration has changed, and the user data includes URLs or is a template
            return True

    def _lock_down(self, *, early: bool = False) -> None:
        """Let in whom the owner lets in. `early`: root is not shut out yet, later stages may still ask the service."""
        current = self.runner()
        config = current.config if current is not None else build([self.image], schemas())
        if early and not {"metadata_access", "disable_ec2_metadata"} & set(config.value):
            return  # the static rules are right until accounts of packages are there
        from cloudboot import lockdown

        problems: list[str] = []
        wanted = lockdown.policy(config.value, self.host, problems)
        lockdown.apply(self.host, lockdown.early(wanted) if early else wanted)
        for text in problems:
            mark = config.marks.get((text.partition(":")[0],))
            self.status.recoverable(f"{mark}: {text}" if mark else text)

    # -- bookkeeping

    def _stage(self, stage: Stage, work: Callable[[], None]) -> None:
        self.host.log.context = str(stage)
        try:
            work()
        except (CloudbootError, OSError) as error:
            self.well = False
            self.host.log.error(f"{stage} stage: {error}")
            self.status.error(f"{stage} stage: {error}")
            self.status.stage(stage, "failed")
        else:
            self.status.stage(stage, "done")
        finally:
            self.host.log.context = ""

    def _finished(self, stage: Stage) -> bool:
        entry = self.status.values["stages"].get(stage, {})
        return self.status.values["boot"] == self.boot_id and entry.get("state") in ("done", "failed", "skipped")

    def _prove_empty(self, stage: Stage) -> None:
        self.emptied.add(stage)
        self.status.stage(stage, "skipped")
        self.host.keep(MakeDir(SKIP))
        self.host.keep(WriteFile(f"{SKIP}/{stage}", b""))

    def _finish(self) -> None:
        self.status.finish()
        failed = [name for name, facts in self.status.values["modules"].items() if facts["state"] == "failed"]
        word = verdict(self.status.values)
        told = f": {', '.join(failed)}" if failed else ""
        self.host.log.info(f"finished: {word}{told}")

    def _publish(self) -> None:
        from cloudboot.compat import files

        try:
            files.publish(self.host, self.status.values)
        except OSError as error:  # a full disk: nothing of ours hangs on them
            self.host.log.error(f"cloud-init's files: {error.strerror}")
