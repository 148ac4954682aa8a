"""An account's fields as a command line of useradd."""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.accounts import Account
    from cloudboot.host import Host

PATH = r"/[^:\n]*"
LINE = r"[^:\n]*"
# field -> option of useradd(8), and the form without which useradd would refuse the whole account.
OPTIONS = {
    "gecos": ("--comment", LINE),
    "homedir": ("--home-dir", PATH),
    "primary_group": ("--gid", LINE),
    "uid": ("--uid", r"[0-9]{1,10}"),
    "shell": ("--shell", PATH),
    "expiredate": ("--expiredate", r"\d{4}-\d{2}-\d{2}"),
    "inactive": ("--inactive", r"-?\d+"),
    "selinux_user": ("--selinux-user", LINE),
}
FLAGS = {"no_user_group": "--no-user-group", "system": "--system", "no_log_init": "--no-log-init"}


def useradd(host: Host, account: Account, groups: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the command that makes an account, and (field, text) for each field that was left out.

    Passwords are not in it: arguments can be seen by everybody.
    """
    argv, flaws = ["useradd"], []
    for name, (option, form) in OPTIONS.items():
        value = account.fields.get(name)
        if value is None:
            continue
        text = str(value)
        if not re.fullmatch(form, text) or (name == "expiredate" and not _is_date(text)):
            flaws.append((name, f"{name}: useradd would not take it, left out: {text!r}"))
        elif name == "uid" and (holder := _holder(host, int(text))) is not None:
            flaws.append((name, f"uid: {text} is {holder}'s: {account.name} gets another one"))
        else:
            argv += [option, text]
    if groups:
        argv += ["--groups", ",".join(groups)]
    if "--gid" not in argv and not account.flag("no_user_group") and host.group(account.name) is not None:
        argv += ["--gid", account.name]  # its own group is there already: useradd would refuse
    argv += [flag for name, flag in FLAGS.items() if account.flag(name)]
    argv.append("-M" if account.flag("no_create_home") or account.flag("system") else "-m")
    return [*argv, account.name], flaws


def _is_date(text: str) -> bool:
    from datetime import date

    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _holder(host: Host, uid: int) -> str | None:
    return next((user.name for user in host.root.users().values() if user.uid == uid), None)
