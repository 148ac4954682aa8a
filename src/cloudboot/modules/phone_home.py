"""phone_home: tell the owner's URL that this instance is up."""

from __future__ import annotations

from cloudboot import hostname
from cloudboot.errors import CloudbootError, NeedsNetwork
from cloudboot.module import Context, Frequency, Stage, module

KEYS = {f"pub_key_{kind}": f"/etc/ssh/ssh_host_{kind}_key.pub" for kind in ("rsa", "ecdsa", "ed25519")}
POSTED = [*KEYS, "instance_id", "hostname", "fqdn"]
ABSENT = "N/A"
TRIES = 10
PAUSE = 3.0  # seconds between two tries


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "phone_home": {
            "type": "object",
            "additionalProperties": False,
            "required": ["url"],
            "properties": {
                "url": {"type": "string", "pattern": "^https?://", "x-form": "http://… or https://…"},
                "post": {
                    "anyOf": [
                        {"enum": ["all"]},
                        {"type": "array", "items": {"type": "string", "enum": POSTED}},
                    ]
                },
                "tries": {"default": 10, "type": "integer", "minimum": 1},
            },
            "examples": [{"url": "https://example.com/$INSTANCE_ID/", "post": ["pub_key_ed25519", "fqdn"]}],
        }
    },
    network=True,
)
def phone_home(ctx: Context) -> None:
    """POST who this instance is to a URL: its public host keys, instance id, host name and domain name.

    `$INSTANCE_ID` in the URL is filled in. `post` chooses what is sent (default `all`; what is not known is `N/A`).
    Tried `tries` times (10), 3 s apart.
    """
    settings = ctx.config["phone_home"]
    if not ctx.host.live:
        ctx.host.log.info("not done: this is an image tree, not the running machine")
        return
    url = settings["url"].replace("${INSTANCE_ID}", ctx.instance.id).replace("$INSTANCE_ID", ctx.instance.id)
    chosen = settings.get("post", "all")
    form = facts(ctx)
    tries = settings.get("tries", TRIES)
    ctx.host.log.doing(f"phone_home: {'/'.join(url.split('/')[:3])} is told, in {tries} tries at most")
    try:
        ctx.fetcher.post(
            url,
            {name: form[name] for name in (POSTED if chosen == "all" else chosen)},
            tries=tries,
            pause=PAUSE,
            deadline=max(120.0, tries * (PAUSE + 9.0)),
        )
    except NeedsNetwork:
        raise
    except CloudbootError as error:
        ctx.fail(f"nobody was told that this instance is up: {error}")
    finally:
        ctx.host.log.doing("")


def facts(ctx: Context) -> dict[str, str]:
    """Collect what can be sent."""
    keys = {name: (ctx.host.text(path) or "").strip() for name, path in KEYS.items()}
    names = hostname.resolve(ctx.config, ctx.instance.hostname)
    own = {
        "instance_id": ctx.instance.id,
        "hostname": names.hostname if names else "",
        "fqdn": names.fqdn if names else "",
    }
    return {name: value or ABSENT for name, value in (keys | own).items()}
