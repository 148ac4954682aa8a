"""ansible: plays of the owner's, pulled and run on this machine."""

from __future__ import annotations

from cloudboot import apt, packages
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudboot.checker import Schema

USER: Schema = {"type": "string", "pattern": r"^[a-z_][a-z0-9_-]*\$?$(?!\n)", "x-form": "a user's name"}
PATH: Schema = {"type": "string", "pattern": "^/", "x-form": "an absolute path"}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NAMES: Schema = {"type": "array", "items": TEXT, "minItems": 1}
# Options that go to ansible-pull and ansible-playbook as they are called, with hyphens.
FLAGS = ("accept_host_key", "clean", "full", "diff", "verify_commit", "force", "check", "become", "syntax_check")
VALUES = """ssh_common_args ssh_extra_args scp_extra_args sftp_extra_args private_key checkout module_path timeout
connection vault_id vault_password_file inventory module_name sleep tags skip_tags limit become_user extra_vars
forks""".split()
OPTIONS: dict[str, Schema] = {
    **dict.fromkeys(FLAGS, FLAG),
    **{name: {"type": ["string", "integer"]} for name in VALUES},
}
PULL: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["url"],
    "properties": {"url": TEXT, "playbook_name": TEXT, "playbook_names": NAMES, **OPTIONS},
}
PLAY: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["playbook_name", "playbook_dir"],
    "properties": {"playbook_name": TEXT, "playbook_dir": PATH, **OPTIONS},
}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "ansible": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "install_method": {"default": "distro", "type": "string", "enum": ["distro", "pip"]},
                "package_name": {
                    "default": "ansible-core",
                    "type": "string",
                    "pattern": apt.WORD,
                    "x-form": "a package's name",
                },
                "run_user": USER,
                "ansible_config": PATH,
                "pull": {"anyOf": [{"type": "array", "items": PULL}, {**PULL, "deprecated": "25.2: write a list"}]},
                "galaxy": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["actions"],
                    "properties": {"actions": {"type": "array", "items": NAMES}},
                },
                "setup_controller": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "repositories": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["path", "source"],
                                "properties": {"path": PATH, "source": TEXT},
                            },
                        },
                        "run_ansible": {"type": "array", "items": PLAY},
                    },
                },
            },
            "examples": [
                {
                    "install_method": "distro",
                    "package_name": "ansible-core",
                    "pull": [{"url": "https://git.example.com/play.git", "playbook_names": ["site.yml"]}],
                }
            ],
        }
    },
    network=True,
)
def ansible(ctx: Context) -> None:
    """Install Ansible, run `galaxy` actions, then `ansible-pull` for each of `pull`, or the plays of a controller.

    Options have the tools' own names with underscores. Everything runs as `run_user` (root), with a result of its own,
    and is not run again where it has ended. `install_method: pip` installs for `run_user` by pip.
    """
    settings = ctx.config["ansible"]
    user = settings.get("run_user")
    if user is not None and ctx.host.live and ctx.host.user(user) is None:
        ctx.fail(f"ansible.run_user: no such user: {user!r}: nothing is run", ("ansible", "run_user"))
        return
    if not install(ctx, settings):
        return
    for label, argv, folder in jobs(settings):
        environment = {"ANSIBLE_CONFIG": settings["ansible_config"]} if "ansible_config" in settings else {}
        if folder is not None:
            argv = ["env", f"--chdir={folder}", *argv]
        ctx.commands.script(label, as_user(ctx, user, argv, environment), env=environment)


def install(ctx: Context, settings: Mapping[str, Any]) -> bool:
    """Install Ansible unless it is there; tell whether it is."""
    name = settings.get("package_name", "ansible-core")
    if settings.get("install_method", "distro") == "distro":
        return packages.bring(ctx, [name], program="ansible-pull")
    if ctx.host.which("ansible-pull") is not None:
        return True
    if not packages.bring(ctx, ["python3-pip"], program="pip3"):
        return False
    argv = ["pip3", "install", "--break-system-packages", "--user", name]
    return not ctx.commands.script("pip install", as_user(ctx, settings.get("run_user"), argv, {})).status


def jobs(settings: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str | None]]:
    """Yield what is run: a label, the words, and the directory where that matters."""
    for number, action in enumerate((settings.get("galaxy") or {}).get("actions", ()), 1):
        yield f"galaxy {number}", list(action), None
    controller = settings.get("setup_controller") or {}
    for number, repository in enumerate(controller.get("repositories", ()), 1):
        argv = ["git", "clone", "--", repository["source"], repository["path"]]
        yield f"repository {number}", argv, None
    for number, play in enumerate(controller.get("run_ansible", ()), 1):
        argv = ["ansible-playbook", *options(play), play["playbook_name"]]
        yield f"play {number}", argv, play["playbook_dir"]
    pulls = settings.get("pull") or []
    for number, pull in enumerate([pulls] if isinstance(pulls, dict) else pulls, 1):
        names = pull.get("playbook_names") or ([pull["playbook_name"]] if "playbook_name" in pull else [])
        yield f"pull {number}", ["ansible-pull", f"--url={pull['url']}", *options(pull), *names], None


def options(given: Mapping[str, Any]) -> list[str]:
    """Return the options of a pull or a play, in a fixed order."""
    words = [f"--{name.replace('_', '-')}" for name in FLAGS if given.get(name)]
    return words + [f"--{name.replace('_', '-')}={given[name]}" for name in VALUES if name in given]


def as_user(ctx: Context, user: str | None, argv: list[str], environment: Mapping[str, str]) -> list[str]:
    """Return the words that run a program as a user, in the user's own environment."""
    if user is None:
        return argv
    account = ctx.host.user(user)
    home = account.home if account is not None else f"/home/{user}"
    own = {"HOME": home, "PATH": f"{home}/.local/bin:/usr/local/bin:/usr/bin:/bin", **environment}
    return ["runuser", "-u", user, "--", "env", *(f"{key}={value}" for key, value in own.items()), *argv]
