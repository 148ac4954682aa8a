"""chef: Chef's client."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.typed import Any

PATH = {"type": "string", "pattern": "^/", "x-form": "an absolute path"}
TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
CLIENT = "/etc/chef/client.rb"
DIRECTORIES = ["/etc/chef", "/var/log/chef", "/var/lib/chef", "/var/cache/chef", "/var/backups/chef", "/run/chef"]
DEFAULTS: dict[str, Any] = {
    "chef_license": None,
    "log_level": ":info",
    "log_location": "/var/log/chef/client.log",
    "server_url": None,
    "environment": "_default",
    "validation_name": None,
    "validation_key": "/etc/chef/validation.pem",
    "client_key": "/etc/chef/client.pem",
    "node_name": None,
    "json_attribs": "/etc/chef/firstboot.json",
    "file_cache_path": "/var/cache/chef",
    "file_backup_path": "/var/backups/chef",
    "pid_file": "/run/chef/client.pid",
    "encrypted_data_bag_secret": None,
    "ssl_verify_mode": None,
    "show_time": True,
}
# How client.rb calls what is called otherwise here.
RUBY = {
    "server_url": "chef_server_url",
    "validation_name": "validation_client_name",
}
SYMBOLS = ("log_level", "ssl_verify_mode")
KEEP = "system"  # as validation_cert: what is there already


@module(
    stage=Stage.FINAL,
    frequency=Frequency.ALWAYS,
    schema={
        "chef": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "directories": {"type": "array", "items": PATH},
                "server_url": TEXT,
                "validation_name": TEXT,
                "validation_cert": {"type": "string", "x-secret": True},
                "validation_key": {**PATH, "default": "/etc/chef/validation.pem"},
                "client_key": {**PATH, "default": "/etc/chef/client.pem"},
                "node_name": TEXT,
                "environment": {**TEXT, "default": "_default"},
                "encrypted_data_bag_secret": PATH,
                "file_backup_path": {**PATH, "default": "/var/backups/chef"},
                "file_cache_path": {**PATH, "default": "/var/cache/chef"},
                "json_attribs": {**PATH, "default": "/etc/chef/firstboot.json"},
                "firstboot_path": PATH,
                "log_level": {**TEXT, "default": ":info"},
                "log_location": {**TEXT, "default": "/var/log/chef/client.log"},
                "pid_file": {**PATH, "default": "/run/chef/client.pid"},
                "show_time": {**FLAG, "default": True},
                "ssl_verify_mode": {"type": "string", "enum": [":verify_none", ":verify_peer"]},
                "chef_license": TEXT,
                "run_list": {"type": "array", "items": TEXT},
                "initial_attributes": {"type": "object", "x-secret": True},
                "install_type": {"default": "packages", "type": "string", "enum": ["packages", "gems", "omnibus"]},
                "omnibus_url": TEXT,
                "omnibus_url_retries": {"type": "integer"},
                "omnibus_version": TEXT,
                "force_install": {**FLAG, "default": False},
                "exec": {**FLAG, "default": False},
                "exec_arguments": {"default": "-d -i 1800 -s 20", "anyOf": [TEXT, {"type": "array", "items": TEXT}]},
                "delete_validation_post_exec": {**FLAG, "default": False},
            },
            "examples": [
                {
                    "server_url": "https://chef.example.com",
                    "validation_name": "example-validator",
                    "run_list": ["recipe[web]"],
                }
            ],
        }
    },
    network=True,
)
def chef(ctx: Context) -> None:
    """Write Chef's client.rb, first-boot attributes and validation key, install the client, run it with `exec: true`.

    `server_url` and `validation_name` are needed. `install_type: packages` (default) is the distribution's `chef`,
    `gems` installs by `gem`; `omnibus` fetches a script and runs it as root: that is not done. Without
    `ssl_verify_mode` Chef's own default holds, which verifies. `validation_cert: system` keeps the key that is there.
    """
    host, settings = ctx.host, ctx.config["chef"]
    missing = [key for key in ("server_url", "validation_name") if not settings.get(key)]
    if missing:
        ctx.report(f"chef: {' and '.join(missing)}: needed: nothing is done", ("chef",))
        return
    for folder in settings.get("directories") or DIRECTORIES:
        host.mkdir(folder)
    certificate = settings.get("validation_cert")
    if certificate and certificate != KEEP:
        path = settings.get("validation_key", DEFAULTS["validation_key"])
        # Once the client is registered it is not needed any more.
        if not host.exists(settings.get("client_key", DEFAULTS["client_key"])) and not ctx.applied(certificate):
            host.write(path, f"{certificate.rstrip()}\n", mode=0o600)
    host.write(CLIENT, client(ctx, settings))
    attributes = dict(settings.get("initial_attributes") or {})
    if "run_list" in settings:
        attributes["run_list"] = settings["run_list"]
    if attributes:
        import json

        path = settings.get("firstboot_path") or settings.get("json_attribs") or DEFAULTS["json_attribs"]
        host.write(path, f"{json.dumps(attributes, indent=1)}\n", mode=0o600)
    if install(ctx, settings) and settings.get("exec", settings.get("install_type") == "gems"):
        run(ctx, settings)


def client(ctx: Context, settings: dict[str, Any]) -> str:
    """Write client.rb; values are Ruby's texts, so that nothing in them is code."""
    known = {**DEFAULTS, "node_name": ctx.instance.id, **settings}
    lines = ["# Written by cloudboot (chef)."]
    for key in DEFAULTS:
        value = known[key]
        if value is None:
            continue
        if key in SYMBOLS:
            text = f":{str(value).lstrip(':')}" if str(value).lstrip(":").isidentifier() else quoted(value)
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = quoted(value)
        lines.append(f"{RUBY.get(key, key)} {text}")
    return "\n".join(lines) + "\n"


def quoted(value: object) -> str:
    """Return a Ruby literal of a text, in which nothing is filled in."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def install(ctx: Context, settings: dict[str, Any]) -> bool:
    """Install the client as asked; tell whether it is there."""
    if ctx.host.which("chef-client") is not None and not settings.get("force_install", False):
        return True
    kind = settings.get("install_type", "packages")
    version = settings.get("omnibus_version") if kind == "gems" else None
    if kind == "omnibus":
        told = "chef.install_type: omnibus runs a script from the network as root: install the client in the image"
        ctx.report(told, ("chef", "install_type"), Level.WARNING)
        return False
    if kind == "packages":
        return packages.bring(ctx, ["chef"], program="chef-client")
    if not packages.bring(ctx, ["ruby"], program="gem"):
        return False
    argv = ["gem", "install", "chef", "--no-document", *(["--version", version] if version else [])]
    return not ctx.commands.script("gem install", argv).status


def run(ctx: Context, settings: dict[str, Any]) -> None:
    """Run the client once, and throw the validation key away after it if that is asked for."""
    words = settings.get("exec_arguments", "-d -i 1800 -s 20")
    ran = ctx.commands.script("chef-client", ["chef-client", *(words.split() if isinstance(words, str) else words)])
    if not ran.status and settings.get("delete_validation_post_exec", False):
        ctx.host.remove(settings.get("validation_key", DEFAULTS["validation_key"]))
        ctx.note_applied(settings.get("validation_cert"))
