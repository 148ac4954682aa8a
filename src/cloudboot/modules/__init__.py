"""The modules, each a file of its own: name = function = file. ORDER is the run order, within each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.module import Module

ORDER = (
    # network: what must precede logins and mounts
    "bootcmd",
    "write_files",
    "growpart",
    "resizefs",
    "mounts",
    "set_hostname",
    "update_hostname",
    "update_etc_hosts",
    "users_groups",
    "ssh",
    "set_passwords",
    # config
    "locale",
    "timezone",
    # final
    "package_update_upgrade_install",
    "scripts_vendor",
    "scripts_per_once",
    "scripts_per_boot",
    "scripts_per_instance",
    "scripts_user",
    "runcmd",
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
