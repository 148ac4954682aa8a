"""The crawl: the metadata asked for, which machine this is by them, and all that is kept and shown of it.

What one stage finds out, the later ones (processes of their own) read from status.json and from what is kept.
"""

from __future__ import annotations

from cloudboot import compat, consumed_root, datasource, instance, modules, store
from cloudboot.actions import MakeDir, Remove, SwapTree, WriteFile
from cloudboot.config import CORE_SCHEMA, Config
from cloudboot.errors import CloudbootError, MetadataDisabled, MetadataError
from cloudboot.http import Fetcher
from cloudboot.instance import Identity, Instance, Kind
from cloudboot.route import wait_for_route
from cloudboot.status import ENVIRONMENT, RUN, key
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.checker import Schema
    from cloudboot.host import Host
    from cloudboot.status import Status
    from cloudboot.userdata.parts import Services

CACHE = "/run/ec2"
PENDING = f"{RUN}/pending"


class Known(NamedTuple):
    """What the local stage found out and the later ones need. id: the key that the machine's state is kept under."""

    kind: Kind
    id: str | None
    source: str | None
    platform: str


class Crawl:
    """What is known of this machine in this boot, and how more of it is asked for.

    image: the image's configuration. boot_id: of this boot. deadline: seconds that the service is waited for. root:
    what became of a root on a volume; root_key: its key, empty if it is none. changed: what was fetched is not what
    was kept. kept: what was fetched is on the disk, for the later stages; else each of them asks again.
    """

    def __init__(
        self, host: Host, status: Status, image: Mapping[str, Any], boot_id: str, deadline: float | None = None
    ) -> None:
        self.host = host
        self.status = status
        self.image = image
        self.boot_id = boot_id
        self.deadline = deadline
        self.root = consumed_root.read(host)
        self.root_key = self.root.key if self.root is not None else ""
        self.changed = False
        self.kept = True
        self._loaded: tuple[Instance, Config] | None = None  # read once in a process, until a crawl

    # -- what is known

    def known(self) -> Known:
        """Return what this boot has found out so far."""
        values = self.status.values
        kind = Kind(values["kind"]) if values["kind"] else Kind.UNKNOWN
        return Known(kind, key(values), values["datasource"], values.get("platform") or "")

    def know(self, known: Known, instance_id: str | None = None) -> None:
        """Note what was found out. instance_id: of the instance around a root that is a volume's."""
        values = self.status.values
        values["kind"], values["instance"] = str(known.kind), instance_id if values["root"] else known.id
        values["datasource"], values["platform"] = known.source, known.platform
        self.status.store()

    def done(self) -> bool:
        """Tell whether the metadata have been fetched in this boot."""
        return bool(self.status.values["crawled"] == self.boot_id)

    def online(self) -> bool:
        """Tell whether the crawl of this boot has shown that there is a network."""
        return self.done() and not self.source().source.offline

    def source(self) -> datasource.Found:
        """Return where the metadata are from. Raises CloudbootError if our program does not know it any more."""
        known = self.known()
        source = datasource.load(known.source or "None")
        if source is None:
            raise CloudbootError(f"datasource {known.source!r}: no longer known")
        return datasource.Found(source, known.platform)

    def moved(self) -> bool:
        """Tell whether the root's volume may have come to another instance; never so where the root is none."""
        if not self.root_key:
            return False
        return instance.may_have_moved(instance.load_identity(self.host), instance.hardware_id(self.host))

    def load(self) -> tuple[Instance, Config] | None:
        """Return what is kept of this machine; its configuration is made anew if the image's has changed."""
        known = self.known().id
        if known is None:
            return None
        if self._loaded is None or self._loaded[0].key != known:
            current = store.load_instance(self.host, known)
            if current is None:
                return None
            merged = store.load(self.host, current)
            if merged is None:
                merged = self._configure(current, store.user_data(self.host, current.key), online=self.done())
            self._loaded = (current, merged)
        return self._loaded

    # -- asking

    def ask(self, deadline: float | None = None, *, last_try: bool = True) -> None:
        """Ask the network for the metadata; what becomes of a silent service is decided here."""
        found = self.source()
        known = self.known()
        try:
            self.fetch(found, deadline if deadline is not None else self.deadline)
        except MetadataError as error:
            if not last_try:
                self.host.log.info(f"{error}: the login does not wait for it, the config stage asks again")
                return
            self.status.error(str(error)) if known.kind is not Kind.SAME else self.status.recoverable(str(error))
            self.host.log.say(str(error))
            self.status.values["crawled"] = None
            if known.kind is not Kind.SAME:
                self._without_metadata(known, switched_off=isinstance(error, MetadataDisabled))
        except OSError as error:
            self._not_kept(error)
        finally:
            self.status.doing("")

    def fetch(self, found: datasource.Found, deadline: float | None = None, *, online: bool = True) -> None:
        """Fetch, decide which instance this is, keep it. Raises MetadataError; NeedsNetwork if not `online`."""
        host = self.host
        settings: dict[str, Any] = (self.image.get("datasource") or {}).get(found.source.name) or {}
        fetched = found.source.fetch(host, settings, found.platform, say=self._waiting, deadline=deadline)
        host.log.info(fetched.word)
        if fetched.files:
            host.keep(SwapTree(CACHE, fetched.files))
        hardware = None if found.source.offline else instance.hardware_id(host)
        previous = instance.load_identity(host)
        decided = instance.decide(previous, hardware, fetched.instance.id, self.root_key)
        if decided.note:
            host.log.error(f"instance id: {decided.note}: {decided.kind}")
            self.status.recoverable(f"instance id: {decided.note}")
        if self.root_key:
            current = fetched.instance._replace(id=hardware or fetched.instance.id, root=self.root_key)
        else:
            current = fetched.instance._replace(id=decided.id or fetched.instance.id)
        # A user data that changed is applied by what runs always or on change; what ran stays as it is.
        identity = Identity(current.key, hardware or (previous.hardware if previous else None), fetched.instance.id)
        earlier, kept = store.load_instance(host, current.key), store.user_data(host, current.key)
        given = (fetched.user_data or b"", fetched.vendor_data or b"")
        self.changed = kept[0] != given[0]
        if self.root_key and earlier is not None:
            self.changed = self.changed or earlier.id != current.id  # its keys are to be let in
            current = current._replace(hostname=earlier.hostname)  # the name is the volume's
        # All that the configuration is made from, but for the image's files, which `load` looks at itself.
        same = kept == given and earlier is not None and _selectors(earlier) == _selectors(current)
        try:
            if not same:  # a power cut may not leave the new data with what was made from the old
                host.keep(Remove(f"{instance.folder(current.key)}/config.json"))
            store.adopt(host, current, identity, fetched.user_data, fetched.vendor_data)
            if decided.kind is Kind.NEW:
                store.note_applied(host, current.key, fetched.user_data)
        except OSError as error:
            self._not_kept(error)
        if decided.kind is not Kind.NEW and store.changed_since_applied(host, current.key, fetched.user_data):
            self.status.values["note"] = "the user data has changed since it was applied"
            host.log.say(self.status.values["note"])
        kind = decided.kind
        if kind is Kind.SAME and self.known().kind is Kind.NEW:
            kind = Kind.NEW  # found new earlier in this boot
        self.know(Known(kind, current.key, found.source.name, found.platform), current.id)
        merged = store.load(host, current) if same else None
        if merged is None or merged.volatile:
            before, merged = merged, self._configure(current, given, online=online)
            # What was included has changed: as if the user data had.
            self.changed = self.changed or (before is not None and before.value != merged.value)
        self._loaded = (current, merged)
        for problem in merged.problems:
            (host.log.info if problem.level == "deprecated" else host.log.warning)(str(problem))
        self._export(current, found.platform)
        self.status.values["crawled"] = self.boot_id if self.kept else None
        self.status.store()
        if host.keep(Remove(PENDING)) and host.live:
            host.run(["systemctl", "stop", "--no-block", "cloudboot-retry.timer"], accept=(0, 1, 5))

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

    def _configure(self, current: Instance, data: tuple[bytes | None, bytes | None], *, online: bool) -> Config:
        """Make the configuration of user data and vendor data, and keep it. Raises NeedsNetwork if not `online`."""
        services = self._services(current, online=online)
        try:
            return store.config(self.host, current, *data, schemas(), services)
        except OSError as error:
            self._not_kept(error)
            return store.config(self.host, current, *data, schemas(), services, keep=False)

    def _not_kept(self, error: OSError) -> None:
        """Go on without keeping what was fetched: a full disk may not stop the login from being set up."""
        self.kept = False
        told = f"{error.filename or instance.INSTANCES}: {error.strerror}: what was fetched counts for this boot only"
        self.host.log.error(told)
        self.status.error(told)

    def _services(self, current: Instance, *, online: bool) -> Services:
        """Return what reading user data needs: URLs, files, the variables of templates."""
        from cloudboot.includes import services

        def fetching(text: str) -> None:
            if text and self.host.live:
                wait_for_route(self.host)  # the metadata service may be nearer than everything else
            self.status.doing(text)

        return services(self.host, current, Fetcher(offline=not online), fetching)

    def _waiting(self, text: str) -> None:
        self.host.log.say(text)
        self.status.doing(text)


def schemas() -> dict[str, Schema]:
    """Return what every top-level key may be: the modules' schemas and our own."""
    return {**CORE_SCHEMA, **modules.schemas()}


def _selectors(current: Instance) -> tuple[object, ...]:
    """Return what of an instance, beside its data, decides what its configuration is."""
    return current.launch_index, current.platform


def _one_word(value: object) -> str:
    return "".join(char for char in str(value) if char.isprintable() and char not in " \"'\\$`#")
