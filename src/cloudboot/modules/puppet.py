"""puppet: Puppet's agent."""

from __future__ import annotations

from cloudboot import apt, packages
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.settings_text import with_settings
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.host import Host

PATH = {"type": "string", "pattern": "^/", "x-form": "an absolute path"}
VERSION = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9+.~:-]*$(?!\n)", "x-form": "a version (quote it)"}
PACKAGES = ("puppet-agent", "puppet")  # Debian's and Puppet's own name for it, the older one
VENDOR = "/etc/puppetlabs/puppet"  # where Puppet's own packages have their configuration
DEBIAN = "/etc/puppet"
SCALAR = {"type": ["string", "integer", "boolean", "number"]}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "puppet": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "install": {"default": True, "type": "boolean"},
                "install_type": {"default": "packages", "type": "string", "enum": ["packages", "aio"]},
                "collection": {"type": "string"},
                "aio_install_url": {"type": "string"},
                "cleanup": {"type": "boolean"},
                "version": VERSION,
                "package_name": {"type": "string", "pattern": apt.WORD, "x-form": "a package's name"},
                "conf_file": PATH,
                "ssl_dir": PATH,
                "csr_attributes_path": PATH,
                "exec": {"default": False, "type": "boolean"},
                "exec_args": {
                    "default": "--test",
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                },
                "start_service": {"default": True, "type": "boolean"},
                "conf": {
                    "type": "object",
                    "properties": {"ca_cert": {"type": "string"}},
                    "additionalProperties": {"type": "object", "additionalProperties": SCALAR},
                },
                "csr_attributes": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "custom_attributes": {"type": "object", "x-secret": True},
                        "extension_requests": {"type": "object"},
                    },
                },
            },
            "examples": [{"conf": {"agent": {"server": "puppet.example.com", "certname": "%i.%f"}}}],
        }
    },
    network=True,
)
def puppet(ctx: Context) -> None:
    """Install Puppet's agent, set `conf` in its puppet.conf by section, write `csr_attributes`, start the service.

    In `certname`, `%f` is the fully qualified name and `%i` the instance's id, in small letters. `conf.ca_cert` is
    written below `ssl_dir`. `exec: true` runs `puppet agent` (with `exec_args`, else --test) and records its result.
    `install_type: aio` fetches a script and runs it as root: that is not done; the distribution's package is installed.
    """
    host, settings = ctx.host, ctx.config["puppet"]
    if settings.get("install_type") == "aio":
        told = "puppet.install_type: aio runs a script from the network as root: the package is installed instead"
        ctx.report(told, ("puppet", "install_type"), Level.WARNING)
    if settings.get("install", True) and not install(ctx, settings):
        return
    home = VENDOR if host.exists(VENDOR) else DEBIAN
    configure(ctx, settings, home)
    if "csr_attributes" in settings:
        import yaml

        path = settings.get("csr_attributes_path", f"{home}/csr_attributes.yaml")
        host.write(path, yaml.safe_dump(settings["csr_attributes"], default_flow_style=False), mode=0o600)
    if settings.get("start_service", True):
        start(host)
    if settings.get("exec", False):
        words = settings.get("exec_args", "--test")
        ctx.commands.script("puppet agent", ["puppet", "agent", *(words.split() if isinstance(words, str) else words)])


def install(ctx: Context, settings: dict[str, Any]) -> bool:
    """Install the package that is named, or the first of those that there are; tell whether it is there."""
    version = f"={settings['version']}" if "version" in settings else ""
    if "package_name" in settings or version:
        return packages.bring(ctx, [f"{settings.get('package_name', PACKAGES[0])}{version}"])
    if ctx.host.which("puppet") is not None:
        return True
    known = [name for name in PACKAGES if ctx.host.ask(["apt-cache", "show", "--no-all-versions", name]).ok]
    return packages.bring(ctx, (known or PACKAGES)[:1], program="puppet")


def configure(ctx: Context, settings: dict[str, Any], home: str) -> None:
    """Set what `conf` says in puppet.conf; what the package had is kept beside as puppet.conf.old."""
    host, conf = ctx.host, dict(settings.get("conf") or {})
    authority = conf.pop("ca_cert", None)
    if authority is not None:
        folder = f"{settings.get('ssl_dir', '/var/lib/puppet/ssl')}/certs"
        owner = "puppet:puppet" if host.user("puppet") is not None else "root:root"
        host.mkdir(folder, mode=0o771, owner=owner)
        host.write(f"{folder}/ca.pem", f"{authority.rstrip()}\n", owner=owner)
    if not conf:
        return
    path = settings.get("conf_file", f"{home}/puppet.conf")
    wanted = {
        section: {key: value_of(ctx, key, value) for key, value in values.items()} for section, values in conf.items()
    }
    before = host.read(path)
    after = with_settings((before or b"").decode("utf-8", "replace"), wanted).encode()
    if before is not None and before != after and not host.exists(f"{path}.old"):
        host.write(f"{path}.old", before)
    host.write(path, after)


def value_of(ctx: Context, key: str, value: Any) -> str:
    """Return a setting as puppet.conf has it; a certificate's name with what it stands for."""
    if key != "certname":
        return str(value).lower() if isinstance(value, bool) else str(value)
    name = ctx.config.get("fqdn") or ctx.instance.hostname or ctx.config.get("hostname") or "localhost"
    return str(value).replace("%f", str(name)).replace("%i", ctx.instance.id).lower()


def start(host: Host) -> None:
    """Have the agent's service run, and at every boot."""
    unit = "puppet.service"
    if host.live and host.ask(["systemctl", "is-enabled", unit]).output.strip() == "enabled":
        if host.ask(["systemctl", "is-active", unit]).output.strip() in ("active", "activating"):
            return
        host.run(["systemctl", "start", "--no-block", unit])
        return
    host.run(["systemctl", "enable", *(["--now", "--no-block"] if host.live else []), unit])
