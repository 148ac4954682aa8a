"""lxd: initialises Ubuntu's container manager."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.errors import CommandError
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
FLAG = {"type": "boolean"}
# What a kind of storage needs to be installed.
STORAGE = {"zfs": ("zpool", "zfsutils-linux"), "lvm": ("lvcreate", "lvm2"), "btrfs": ("mkfs.btrfs", "btrfs-progs")}
READY = 300  # seconds
LIVE = "lxd runs on a running machine only"


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "lxd": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "init": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "network_address": TEXT,
                        "network_port": NUMBER,
                        "storage_backend": {"type": "string", "enum": ["dir", "zfs", "btrfs", "lvm"]},
                        "storage_create_device": TEXT,
                        "storage_create_loop": NUMBER,
                        "storage_pool": TEXT,
                        "trust_password": {"type": "string", "x-secret": True},
                    },
                },
                "bridge": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["mode"],
                    "properties": {
                        "mode": {"type": "string", "enum": ["none", "existing", "new"]},
                        "name": TEXT,
                        "mtu": NUMBER,
                        "ipv4_address": TEXT,
                        "ipv4_netmask": NUMBER,
                        "ipv4_dhcp_first": TEXT,
                        "ipv4_dhcp_last": TEXT,
                        "ipv4_dhcp_leases": NUMBER,
                        "ipv4_nat": FLAG,
                        "ipv6_address": TEXT,
                        "ipv6_netmask": NUMBER,
                        "ipv6_nat": FLAG,
                        "domain": TEXT,
                    },
                },
                "preseed": {"type": "string", "x-secret": True},
            },
            "examples": [{"init": {"storage_backend": "dir"}, "bridge": {"mode": "new", "name": "lxdbr0"}}],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def lxd(ctx: Context) -> None:
    """Install LXD (the snap) and initialise it: by `preseed` alone, or by `init` and `bridge`; once for an instance.

    What the wanted kind of storage needs is installed. Secrets go to LXD on its standard input.
    """
    host, settings = ctx.host, ctx.config["lxd"]
    if "preseed" in settings and ("init" in settings or "bridge" in settings):
        ctx.report("lxd.preseed: says everything: init and bridge do not go beside it: nothing is done", ("lxd",))
        return
    if not settings or ctx.applied(settings) or not install(ctx, settings):
        return
    host.run(["lxd", "waitready", f"--timeout={READY}"], live=LIVE, timeout=READY + 30)
    preseed = settings.get("preseed")
    if preseed is not None:
        host.run(["lxd", "init", "--preseed"], stdin=preseed.encode(), live=LIVE, timeout=READY)
    else:
        initialise(ctx, settings)
    ctx.note_applied(settings)


def initialise(ctx: Context, settings: Mapping[str, Any]) -> None:
    """Do what `init` and `bridge` say."""
    host = ctx.host
    init = dict(settings.get("init") or {})
    secret = init.pop("trust_password", None)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in init.items()]
    host.run(["lxd", "init", "--auto", *words], live=LIVE, timeout=READY)
    if secret is not None:  # not as an argument, which everybody could read
        host.run(["lxc", "config", "set", "core.trust_password", "-"], stdin=secret.encode(), live=LIVE)
    for argv in bridge(settings.get("bridge") or {"mode": "none"}):
        host.run(argv, live=LIVE, env={"HOME": "/root", "PATH": "/snap/bin:/usr/sbin:/usr/bin:/sbin:/bin"})


def install(ctx: Context, settings: Mapping[str, Any]) -> bool:
    """Have LXD and what its storage needs; tell whether that went well."""
    if ctx.host.which("lxd") is None:
        try:
            ctx.host.run(["snap", "install", "lxd"], live=LIVE, timeout=READY)
        except CommandError as error:
            ctx.fail(str(error))
            return False
    kinds = {(settings.get("init") or {}).get("storage_backend")}
    if "preseed" in settings:
        kinds = {kind for kind in STORAGE if f"driver: {kind}" in settings["preseed"]}
    needs = [STORAGE[kind] for kind in STORAGE if kind in kinds]
    brought = [packages.bring(ctx, [package], program=program) for program, package in needs]
    return all(brought)


def bridge(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the commands that make a bridge (`new`) and give it to the default profile."""
    if settings["mode"] == "none":
        return
    name = settings.get("name", "lxdbr0")
    if settings["mode"] == "new":
        words = []
        for family in ("ipv4", "ipv6"):
            address, mask = settings.get(f"{family}_address"), settings.get(f"{family}_netmask")
            words.append(f"{family}.address={address}/{mask}" if address and mask else f"{family}.address=none")
            if address and mask and settings.get(f"{family}_nat"):
                words.append(f"{family}.nat=true")
        first, last = settings.get("ipv4_dhcp_first"), settings.get("ipv4_dhcp_last")
        words += [f"ipv4.dhcp.ranges={first}-{last}"] if first and last else []
        words += [f"dns.domain={settings['domain']}"] if settings.get("domain") else []
        words += [f"bridge.mtu={settings['mtu']}"] if settings.get("mtu", -1) > 0 else []
        yield ["lxc", "network", "create", name, *words]
    yield ["lxc", "network", "attach-profile", name, "default", "eth0"]
