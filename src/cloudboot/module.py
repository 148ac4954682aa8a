"""What a module is: a function with a stage, a frequency and a schema; and what it is given to work with."""

from __future__ import annotations

from enum import StrEnum

from cloudboot.actions import MakeDir, WriteFile
from cloudboot.problem import Level, Mark, Problem, at, in_owners_words
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

__all__ = ["Context", "Facts", "Frequency", "Level", "Module", "Stage", "canonical_name", "module", "parse_frequency"]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.checker import Schema
    from cloudboot.commands import Commands
    from cloudboot.host import Host
    from cloudboot.http import Fetcher
    from cloudboot.instance import Instance
    from cloudboot.problem import Marks, Pointer


class Stage(StrEnum):
    """The stages of a boot, in order."""

    LOCAL = "local"
    NETWORK = "network"
    CONFIG = "config"
    FINAL = "final"


class Frequency(StrEnum):
    """How often a module runs."""

    ONCE = "once"  # in the life of this disk
    INSTANCE = "per-instance"
    BOOT = "per-boot"
    ALWAYS = "always"  # each time its stage runs


SPELLINGS = {
    "once": Frequency.ONCE,
    "per-once": Frequency.ONCE,
    "instance": Frequency.INSTANCE,
    "once-per-instance": Frequency.INSTANCE,
    "per-instance": Frequency.INSTANCE,
    "boot": Frequency.BOOT,
    "once-per-boot": Frequency.BOOT,
    "per-boot": Frequency.BOOT,
    "always": Frequency.ALWAYS,
    "per-always": Frequency.ALWAYS,
}


def parse_frequency(word: object) -> Frequency | None:
    """Read a frequency in our spelling or cloud-init's; None if it is neither."""
    return SPELLINGS.get(word.strip().lower().replace("_", "-")) if isinstance(word, str) else None


def canonical_name(name: str) -> str:
    """Return the one name of a module: `mounts`, `cc_mounts`, `config-mounts`, `config_mounts` are the same."""
    plain = name.strip().replace("-", "_").removesuffix(".py")
    return plain.removeprefix("cc_").removeprefix("config_")


class Facts(NamedTuple):
    """What the proof that a module has nothing to do may look at; `folder` is the instance's."""

    host: Host
    folder: str
    config: Mapping[str, Any]
    instance: Instance


class Module(NamedTuple):
    """A module, as declared in its file."""

    name: str
    function: Callable[[Context], None]
    stage: Stage
    frequency: Frequency
    schema: dict[str, Schema]  # top-level key -> what it may be
    keys: tuple[str, ...]  # runs only if the configuration has one of these; empty: runs whatever it says
    converges: bool  # running it again after an interruption is right; else the owner decides (on_interrupt)
    metadata: bool  # reads the metadata service's answers: waits for the crawl
    network: bool  # needs the network
    late: bool  # needs what the local stage is too early for (all disks, what fstab mounts), but no network
    essential: bool  # the login hangs on it: neither a list nor another module's failure keeps it from running
    light: bool  # not worth a process of its own: an earlier stage runs it where nothing else of its stage is due
    distros: tuple[str, ...]  # empty: all
    reads: tuple[str, ...]  # the configuration keys that it declares
    idle: (
        Callable[[Facts], bool] | None
    )  # proves that there is nothing to do, without which the module would find out at some cost
    follows: bool  # per instance, it runs again where a root that is a volume's has come to another instance

    @property
    def doc(self) -> str:
        """The module's docstring."""
        return self.function.__doc__ or ""


def module(
    *,
    stage: Stage,
    frequency: Frequency,
    schema: dict[str, Schema] | None = None,
    keys: tuple[str, ...] | None = None,
    converges: bool = True,
    metadata: bool = False,
    network: bool = False,
    late: bool = False,
    essential: bool = False,
    light: bool = False,
    distros: tuple[str, ...] = (),
    idle: Callable[[Facts], bool] | None = None,
    follows: bool = False,
) -> Callable[[Callable[[Context], None]], Module]:
    """Declare a module. `keys` defaults to those of `schema`; give `()` for one that always runs."""

    def declare(function: Callable[[Context], None]) -> Module:
        return Module(
            function.__name__,
            function,
            stage,
            frequency,
            schema or {},
            tuple(schema or ()) if keys is None else keys,
            converges,
            metadata,
            network,
            late,
            essential,
            light,
            distros,
            tuple(schema or ()),
            idle,
            follows,
        )

    return declare


class Context:
    """What a module works with.

    host: the door to the machine. config: the merged configuration, checked against the schemas. instance: which
    machine this is, with its metadata. image: the image's own configuration alone (`default_user` …). commands: runs
    the owner's commands and records each result. fetcher: HTTP for the owner's URLs. first: whether this module runs
    for the first time on this instance (host keys are replaced and accounts created only then). resume_from: the
    item that `--from` names.
    """

    def __init__(
        self,
        *,
        host: Host,
        config: dict[str, Any],
        instance: Instance,
        image: dict[str, Any],
        commands: Commands,
        fetcher: Fetcher,
        marks: Marks,
        first: bool,
        name: str,
        resume_from: int | None = None,
        datasource: str = "",
    ) -> None:
        self.host = host
        self.config = config
        self.instance = instance
        self.image = image
        self.commands = commands
        self.fetcher = fetcher
        self.marks = marks
        self.first = first
        self.name = name
        self.resume_from = resume_from
        self.datasource = datasource
        self.problems: list[Problem] = []
        self.failures: list[str] = []

    def report(self, text: str, pointer: Pointer = (), level: Level = Level.ERROR) -> None:
        """Report something that is wrong with the configuration and go on with the rest.

        `pointer` says where (`("users", 0, "shell")`); line and column are found from it.
        """
        problem = Problem(self.mark(pointer), in_owners_words(self.marks, pointer, text), level)
        self.problems.append(problem)
        if level is Level.ERROR:
            self.host.log.warning(str(problem))
        else:
            self.host.log.info(str(problem))

    def fail(self, text: str, pointer: Pointer = ()) -> None:
        """Note that a part of the work failed; the module goes on and is recorded as failed.

        `pointer` says what of the configuration could not be done, where it is that.
        """
        told = text if text.startswith(f"{self.name}:") else f"{self.name}: {text}"
        if pointer and (mark := self.mark(pointer)).line:
            told = f"{mark}: {told}"
        self.failures.append(told)
        self.host.log.error(told)

    def applied(self, value: object) -> bool:
        """Tell whether this module has done its work for this value on this instance.

        For tools that cannot be asked whether there is anything to do; see `note_applied`.
        """
        return self.host.text(f"{self.commands.folder}/applied/{self.name}") == _checksum(value)

    def note_applied(self, value: object) -> None:
        """Note that the work for this value is done, unless a part of it has failed."""
        if not self.failures:
            folder = f"{self.commands.folder}/applied"
            self.host.keep(MakeDir(folder, 0o700))
            self.host.keep(WriteFile(f"{folder}/{self.name}", _checksum(value).encode(), 0o600))

    def mark(self, pointer: Pointer) -> Mark:
        """Return where in the owner's text a value stands; the nearest known place above it."""
        return at(self.marks, pointer, self.name)


def _checksum(value: object) -> str:
    import json
    import zlib

    return f"{zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()):08x}"
