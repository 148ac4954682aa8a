"""The modules, each a file of its own: name = function = file. ORDER is the run order, within each stage."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema
    from cloudboot.module import Context, Facts, Module

INDEX = "index.json"
SCHEMAS = "schemas.json"

ORDER = (
    # network: what must precede logins and mounts
    "part_handlers",
    "boothooks",
    "seed_random",
    "bootcmd",
    "write_files",
    "growpart",
    "resizefs",
    "disk_setup",
    "instance_store",
    "mounts",
    "growfs",
    "set_hostname",
    "update_hostname",
    "update_etc_hosts",
    "ca_certs",
    "rsyslog",
    "users_groups",
    "ssh",
    "set_passwords",
    "consume",
    "kernel_hold",
    # config
    "lease",
    "wireguard",
    "snap",
    "ubuntu_autoinstall",
    "ssh_import_id",
    "keyboard",
    "locale",
    "grub_dpkg",
    "resolv_conf",
    "apt_pipelining",
    "apt_configure",
    "ubuntu_pro",
    "ntp",
    "timezone",
    "byobu",
    # final
    "package_update_upgrade_install",
    "fan",
    "landscape",
    "lxd",
    "ubuntu_drivers",
    "write_files_deferred",
    "puppet",
    "chef",
    "ansible",
    "mcollective",
    "salt_minion",
    "scripts_vendor",
    "scripts_per_once",
    "scripts_per_boot",
    "scripts_per_instance",
    "scripts_user",
    "runcmd",
    "consume_programs",
    "ssh_authkey_fingerprints",
    "keys_to_console",
    "phone_home",
    "final_message",
    "power_state_change",
)


def load(name: str) -> Module:
    """Return a module by its name. Raises KeyError if there is none."""
    if name not in ORDER:
        raise KeyError(name)
    from importlib import import_module

    found: Module = getattr(import_module(f"cloudboot.modules.{name}"), name)
    return found


def load_all() -> list[Module]:
    """Return all modules in run order."""
    return [load(name) for name in ORDER]


def declared() -> list[Module]:
    """Return all modules in run order, without importing their files where `bake` has left an index of them.

    Such a module imports its file when it is run; its schema is empty (`load` has it).
    """
    import json
    import os

    from cloudboot.module import Frequency, Module, Stage

    try:
        with open(f"{os.path.dirname(__file__)}/{INDEX}", encoding="utf-8") as file:
            entries = json.load(file)
    except FileNotFoundError:
        return load_all()
    except (OSError, ValueError):
        return load_all()  # damaged: slower, not wrong

    def later(name: str, facts: dict[str, Any]) -> Module:
        def idle(facts: Facts) -> bool:
            proof = load(name).idle
            return proof is not None and proof(facts)

        def function(ctx: Context) -> None:
            load(name).function(ctx)

        lists = {key: tuple(facts[key]) for key in ("keys", "distros", "reads")}
        return Module(
            **{
                **facts,
                **lists,
                "name": name,
                "stage": Stage(facts["stage"]),
                "frequency": Frequency(facts["frequency"]),
                "function": function,
                "schema": {},
                "idle": idle if facts["idle"] else None,
            }
        )

    return [later(name, facts) for name, facts in entries.items()]


def schemas(*, fresh: bool = False) -> dict[str, Schema]:
    """Return what every key of a module may be, from what `bake` left; `fresh`: from the modules themselves."""
    import json
    import os

    if not fresh:
        try:
            with open(f"{os.path.dirname(__file__)}/{SCHEMAS}", encoding="utf-8") as file:
                stored: dict[str, Schema] = json.load(file)
                return stored
        except (OSError, ValueError):
            pass  # a checkout, or damaged: slower, not wrong
    union: dict[str, Schema] = {}
    for each in load_all():
        union.update(each.schema)
    return union


def index() -> str:
    """Return what `declared` reads: everything about the modules but their functions and schemas, as JSON."""
    import json

    entries = {}
    for each in load_all():
        facts = each._asdict()
        del facts["name"], facts["function"], facts["schema"]
        entries[each.name] = {**facts, "idle": each.idle is not None}
    return json.dumps(entries, indent=1) + "\n"
