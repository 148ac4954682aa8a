"""byobu: whether logins start it."""

from __future__ import annotations

from cloudboot import accounts, packages
from cloudboot.module import Context, Frequency, Stage, module

NAMES = {"user": "enable-user", "system": "enable-system"}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "byobu_by_default": {
            "enum": [
                "enable-system",
                "enable-user",
                "disable-system",
                "disable-user",
                "enable",
                "disable",
                "user",
                "system",
            ],
            "examples": ["enable-user"],
        }
    },
    network=True,
)
def byobu(ctx: Context) -> None:
    """Have logins start byobu, of the default user or of everybody, or no longer; it is installed if it is missing."""
    wish = ctx.config["byobu_by_default"]
    wish = NAMES.get(wish, wish)
    if ctx.applied(wish) or not packages.bring(ctx, ["byobu"], program="byobu-launcher"):
        return
    on = wish.startswith("enable")
    if on or wish in ("disable", "disable-system"):  # as there: what is enabled is enabled for everybody
        answer = f"byobu byobu/launch-by-default boolean {str(on).lower()}\n"
        ctx.host.run(["debconf-set-selections"], stdin=answer.encode())
        ctx.host.run(["dpkg-reconfigure", "--frontend=noninteractive", "byobu"])
    if wish in ("enable-user", "disable-user", "disable"):
        user = accounts.wanted(ctx.config, ctx.image.get("default_user") or {}).default
        if user is None or (ctx.host.live and ctx.host.user(user) is None):
            ctx.fail("byobu_by_default: there is no default user", ("byobu_by_default",))
            return
        ctx.host.run(["runuser", "-u", user, "--", f"byobu-launcher-{'install' if on else 'uninstall'}"], live="a home")
    ctx.note_applied(wish)
