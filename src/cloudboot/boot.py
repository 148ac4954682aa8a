"""The stages of a boot: identity, crawl, lock-down, configuration, modules; each stage is a process of its own.

A stage that has died is made up for by the next one, which finds it unfinished in status.json. What is proved to have
nothing to do gets a file in /run/cloudboot/skip, and systemd does not start it.
"""

from __future__ import annotations

import time

from cloudboot import compat, consumed_root, datasource, distro, instance, modules, store
from cloudboot.actions import MakeDir, Remove, SwapTree, WriteFile
from cloudboot.config import CORE_SCHEMA, Config, build
from cloudboot.errors import CloudbootError, MetadataDisabled, MetadataError, NeedsNetwork
from cloudboot.http import Fetcher
from cloudboot.instance import Identity, Instance, Kind
from cloudboot.ledger import Ledger
from cloudboot.module import Module, Stage
from cloudboot.route import wait_for_route
from cloudboot.runner import Runner
from cloudboot.status import ENVIRONMENT, RESULT, RUN, Status, key, verdict
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.checker import Schema
    from cloudboot.host import Host
    from cloudboot.userdata.parts import Services

CACHE = "/run/ec2"
SKIP = f"{RUN}/skip"
PENDING = f"{RUN}/pending"
GRACE = 1.0  # seconds that the login waits for the service where only the service can tell a new machine from this one


class Known(NamedTuple):
    """What the local stage found out and the later ones need. id: the key that the machine's state is kept under."""

    kind: Kind
    id: str | None
    source: str | None
    platform: str


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
        self.deadline = deadline
        self.status = Status(host)
        self.boot_id = Ledger(host, "").boot
        host.log.on_doing = self.status.doing
        if compat.installed(host):
            self.status.on_stage = self._publish
        self.modules = modules.declared()
        self.image, self.image_problems = store.image(host)
        self.well = True
        self.changed = False  # the user data is not what was kept
        self.emptied: set[Stage] = set()  # proved to have nothing to do, by a stage before
        self._loaded: tuple[Instance, Config] | None = None  # read once in a process, until a crawl

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
        host = self.host
        fresh = self.status.values["boot"] != self.boot_id
        if fresh:
            self.status.reset(self.boot_id)
            host.keep(Remove(RESULT))
        host.keep(Remove(SKIP))
        self.status.stage(Stage.LOCAL, "started")
        consumed_root.report(host, self.status)
        for problem in self.image_problems:
            self.status.problem(problem)
        found = datasource.find(host, self.image.value)
        previous = instance.load_identity(host)
        if found is None:
            self._know(Known(Kind.UNKNOWN, None, None, ""))
            self.status.values["note"] = "not on EC2, and no other datasource: nothing to do"
            host.log.say(str(self.status.values["note"]))
            return
        if found.source.offline:
            try:
                self._fetch(found, self._settings(found), online=False)
            except NeedsNetwork as error:
                host.log.info(f"{error}: the user data needs the network: put off to the network stage")
                return
            self._run_offline()
            return
        hardware = instance.hardware_id(host)
        root = consumed_root.key(host)
        decided = instance.decide(previous, hardware, None, root)
        self._know(Known(decided.kind, decided.id, found.source.name, found.platform), hardware)
        if decided.kind is Kind.SAME and not (root and instance.may_have_moved(previous, hardware)):
            self._run_offline()

    def network(self) -> None:
        """Crawl if that decides anything here; then what must precede logins and mounts.

        After a crawl, a config stage that has only light work is done here too: to start a process for it costs more.
        """
        self.status.stage(Stage.NETWORK, "started")
        known = self._known()
        if known.source is None:
            return
        if self._source().source.offline:
            if not self._crawled():
                self._crawl()
        elif known.kind is Kind.SAME:
            root = consumed_root.key(self.host)
            hardware = instance.hardware_id(self.host) if root else None
            moved = bool(root) and instance.may_have_moved(instance.load_identity(self.host), hardware)
            if not self._crawled() and (moved or self._needs_crawl()):
                unsure = moved and hardware is None
                self._crawl(GRACE if unsure else None, last_try=not unsure)
        elif known.kind is not Kind.NEW and not self._crawled():
            returning = known.kind is Kind.UNKNOWN and instance.load_identity(self.host) is not None
            self._crawl(GRACE if returning else None, last_try=not returning)
        self._run(Stage.NETWORK)
        self._lock_down(early=True)
        access = {"metadata_access", "disable_ec2_metadata"} & set(self._merged())
        if self._crawled() and not access and all(module.light for module in self._due(Stage.CONFIG)):
            self._settle()
            self._prove_empty(Stage.CONFIG)

    def config(self) -> None:
        """Crawl if it has not been done; run the config stage."""
        self.status.stage(Stage.CONFIG, "started")
        known = self._known()
        if known.source is None:
            return
        if not self._crawled():
            before = known.kind
            self._crawl()
            late = self._known().kind is Kind.NEW and before is not Kind.NEW
            if late or self.changed:
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
        if self._known().source is not None:
            self._run(Stage.FINAL)
        self._finish()

    # -- identity and metadata

    def _fetch(
        self,
        found: datasource.Found,
        settings: dict[str, Any],
        deadline: float | None = None,
        *,
        online: bool = True,
    ) -> None:
        """Fetch, decide which instance this is, keep it. Raises MetadataError; NeedsNetwork if not `online`."""
        host = self.host
        fetched = found.source.fetch(host, settings, found.platform, say=self._waiting, deadline=deadline)
        host.log.info(fetched.word)
        if fetched.files:
            host.keep(SwapTree(CACHE, fetched.files))
        hardware = None if found.source.offline else instance.hardware_id(host)
        previous = instance.load_identity(host)
        root = consumed_root.key(host)
        decided = instance.decide(previous, hardware, fetched.instance.id, root)
        if decided.note:
            host.log.error(f"instance id: {decided.note}: {decided.kind}")
            self.status.recoverable(f"instance id: {decided.note}")
        if root:
            current = fetched.instance._replace(id=hardware or fetched.instance.id, root=root)
        else:
            current = fetched.instance._replace(id=decided.id or fetched.instance.id)
        # A user data that changed is applied by what runs always or on change; what ran stays as it is.
        identity = Identity(current.key, hardware or (previous.hardware if previous else None), fetched.instance.id)
        earlier, kept = store.load_instance(host, current.key), store.user_data(host, current.key)
        given = (fetched.user_data or b"", fetched.vendor_data or b"")
        self.changed = kept[0] != given[0]
        if root and earlier is not None:
            self.changed = self.changed or earlier.id != current.id  # its keys are to be let in
            current = current._replace(hostname=earlier.hostname)  # the name is the volume's
        # All that the configuration is made from, but for the image's files, which `load` looks at itself.
        same = kept == given and earlier is not None and _selectors(earlier) == _selectors(current)
        if not same:  # a power cut may not leave the new data with what was made from the old
            host.keep(Remove(f"{instance.folder(current.key)}/config.json"))
        store.adopt(host, current, identity, fetched.user_data, fetched.vendor_data)
        if decided.kind is Kind.NEW:
            store.note_applied(host, current.key, fetched.user_data)
        elif store.changed_since_applied(host, current.key, fetched.user_data):
            self.status.values["note"] = "the user data has changed since it was applied"
            host.log.say(self.status.values["note"])
        kind = decided.kind
        if kind is Kind.SAME and self._known_or_none() is Kind.NEW:
            kind = Kind.NEW  # found new earlier in this boot
        self._know(Known(kind, current.key, found.source.name, found.platform), current.id)
        merged = store.load(host, current) if same else None
        if merged is None or merged.volatile:
            before, services = merged, self._services(current, online=online)
            merged = store.config(host, current, *given, self.schemas(), services)
            # What was included has changed: as if the user data had.
            self.changed = self.changed or (before is not None and before.value != merged.value)
        self._loaded = (current, merged)
        for problem in merged.problems:
            (host.log.info if problem.level == "deprecated" else host.log.warning)(str(problem))
        self._export(current, found.platform)
        self.status.values["crawled"] = self.boot_id
        self.status.store()
        if host.keep(Remove(PENDING)) and host.live:
            host.run(["systemctl", "stop", "--no-block", "cloudboot-retry.timer"], accept=(0, 1, 5))

    def _crawl(self, deadline: float | None = None, *, last_try: bool = True) -> None:
        """Ask the network for the metadata; what becomes of a silent service is decided here."""
        found = self._source()
        known = self._known()
        try:
            self._fetch(found, self._settings(found), deadline if deadline is not None else self.deadline)
        except MetadataError as error:
            if not last_try:
                self.host.log.info(f"{error}: the login does not wait for it, the config stage asks again")
                return
            self.status.error(str(error)) if known.kind is not Kind.SAME else self.status.recoverable(str(error))
            self.host.log.say(str(error))
            self.status.values["crawled"] = None
            if known.kind is not Kind.SAME:
                self._without_metadata(known, switched_off=isinstance(error, MetadataDisabled))
        finally:
            self.status.doing("")

    def _without_metadata(self, known: Known, *, switched_off: bool) -> None:
        from cloudboot import hostkeys

        new = known.kind is Kind.NEW_WITHOUT_DATA
        try:
            hostkeys.generate(self.host, replace=new and not self.host.exists(f"{RUN}/rekeyed"))
            if new:
                self.host.keep(WriteFile(f"{RUN}/rekeyed", b""))
        except (CloudbootError, OSError) as error:
            self.status.error(f"host keys: {error}")
        if switched_off:
            return
        self.host.keep(WriteFile(PENDING, b""))
        self.host.log.say("the user data is pending: it is asked for again every 30 s, and at the next boot")
        if self.host.live:
            self.host.run(["systemctl", "start", "--no-block", "cloudboot-retry.timer"], accept=(0, 1, 5))

    def _export(self, current: Instance, platform: str) -> None:
        """Leave what is not secret about the instance for everybody: for units, and for `query`."""
        lines = {
            "INSTANCE_ID": current.id,
            "PLATFORM": platform,
            "AVAILABILITY_ZONE": current.availability_zone,
            "REGION": current.region,
            "LAUNCH_INDEX": current.launch_index,
            "LOCAL_HOSTNAME": current.hostname,
        }
        text = "".join(f"CLOUDBOOT_{key}={_one_word(value)}\n" for key, value in lines.items() if value is not None)
        self.host.keep(MakeDir(RUN))
        self.host.keep(WriteFile(ENVIRONMENT, text.encode()))
        from cloudboot import query

        shown = query.shown(current, self.host)
        self.host.keep(WriteFile(query.PUBLIC, query.public(shown)))
        if compat.installed(self.host):
            from cloudboot.compat import files

            files.publish_instance(self.host, shown)

    def _services(self, current: Instance, *, online: bool) -> Services:
        """Return what reading user data needs: URLs, files, the variables of templates."""
        from cloudboot.includes import services

        def fetching(text: str) -> None:
            if text and self.host.live:
                wait_for_route(self.host)  # the metadata service may be nearer than everything else
            self.status.doing(text)

        return services(self.host, current, Fetcher(offline=not online), fetching)

    # -- modules

    def schemas(self) -> dict[str, Schema]:
        """Return what every top-level key may be: the modules' schemas and our own."""
        return {**CORE_SCHEMA, **modules.schemas()}

    def runner(self, *, offline: bool = False) -> Runner | None:
        """Return a runner for the current instance; None if none is known yet."""
        known = self._known()
        loaded = self._load(known.id) if known.id else None
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
            kind=known.kind,
            image=self.image_facts(),
            distro=distro.read(self.host).name,
            clock=self.clock,
        )

    def _load(self, known: str) -> tuple[Instance, Config] | None:
        """Return what is kept of an instance; its configuration is made anew if the image's has changed."""
        if self._loaded is None or self._loaded[0].key != known:
            current = store.load_instance(self.host, known)
            if current is None:
                return None
            merged = store.load(self.host, current)
            if merged is None:
                given = store.user_data(self.host, current.key)
                services = self._services(current, online=self._crawled())
                merged = store.config(self.host, current, *given, self.schemas(), services)
            self._loaded = (current, merged)
        return self._loaded

    def _merged(self) -> dict[str, Any]:
        """Return the merged configuration; the image's where no instance is known."""
        known = self._known()
        loaded = self._load(known.id) if known.id else None
        return loaded[1].value if loaded is not None else self.image.value

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
        if self.host.live and not self._online() and any(module.network for module in runner.due(stage)):
            wait_for_route(self.host)
        self.well = runner.run_stage(stage) and self.well

    def _run_offline(self) -> None:
        """Run what needs neither network nor fresh metadata, in order, up to the first that does."""
        try:
            runner = self.runner(offline=not self._source().source.offline)
        except NeedsNetwork as error:
            self.host.log.info(f"{error}: needed for the user data: put off to the network stage")
            return
        if runner is None:
            return
        fetched = self._crawled()

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
        config = current.config if current is not None else build([self.image], self.schemas())
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

        files.publish(self.host, self.status.values)

    def _know(self, known: Known, instance_id: str | None = None) -> None:
        values = self.status.values
        values["kind"], values["instance"] = str(known.kind), instance_id if values["root"] else known.id
        values["datasource"], values["platform"] = known.source, known.platform
        self.status.store()

    def _known(self) -> Known:
        values = self.status.values
        kind = Kind(values["kind"]) if values["kind"] else Kind.UNKNOWN
        return Known(kind, key(values), values["datasource"], values.get("platform") or "")

    def _known_or_none(self) -> Kind | None:
        return Kind(self.status.values["kind"]) if self.status.values["kind"] else None

    def _crawled(self) -> bool:
        return bool(self.status.values["crawled"] == self.boot_id)

    def _online(self) -> bool:
        """Tell whether the crawl of this boot has shown that there is a network."""
        return self._crawled() and not self._source().source.offline

    def _source(self) -> datasource.Found:
        known = self._known()
        source = datasource.load(known.source or "None")
        if source is None:
            raise CloudbootError(f"datasource {known.source!r}: no longer known")
        return datasource.Found(source, known.platform)

    def _settings(self, found: datasource.Found) -> dict[str, Any]:
        settings: dict[str, Any] = (self.image.value.get("datasource") or {}).get(found.source.name) or {}
        return settings

    def _waiting(self, text: str) -> None:
        self.host.log.say(text)
        self.status.doing(text)


def _selectors(current: Instance) -> tuple[object, ...]:
    """Return what of an instance, beside its data, decides what its configuration is."""
    return current.launch_index, current.platform


def _one_word(value: object) -> str:
    return "".join(char for char in str(value) if char.isprintable() and char not in " \"'\\$`#")
