"""keys_to_console: host keys on the console, where `aws ec2 get-console-output` finds them."""

from __future__ import annotations

from cloudboot import hostkeys
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.sshkeys import fingerprint
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.checker import Schema

KEY_TYPES: Schema = {"type": "array", "items": {"type": "string"}, "examples": [["ssh-rsa"]]}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "ssh": {
            "type": "object",
            "properties": {"emit_keys_to_console": {"default": True, "type": "boolean"}},
            "additionalProperties": False,
            "examples": [{"emit_keys_to_console": False}],
        },
        "ssh_fp_console_blacklist": KEY_TYPES,
        "ssh_key_console_blacklist": KEY_TYPES,
    },
    keys=(),
    light=True,
)
def keys_to_console(ctx: Context) -> None:
    """Print the fingerprints of the host keys and the public host keys on the console.

    Each block stands between the marker lines that EC2's tools look for. The lists name key types to leave out
    (`ssh-rsa`, `ecdsa-sha2-nistp256`, `ssh-ed25519`); `ssh: {emit_keys_to_console: false}` prints nothing.
    """
    if not (ctx.config.get("ssh") or {}).get("emit_keys_to_console", True):
        return
    keys = hostkeys.public_keys(ctx.host)
    without_print = ctx.config.get("ssh_fp_console_blacklist") or ()
    without_line = ctx.config.get("ssh_key_console_blacklist") or ()
    _block(ctx, "FINGERPRINTS", [fingerprint(key) for key in keys if key.type not in without_print])
    _block(ctx, "KEYS", [key.line for key in keys if key.type not in without_line])


def _block(ctx: Context, name: str, lines: list[str]) -> None:
    if lines:
        marked = [f"-----BEGIN SSH HOST KEY {name}-----", *lines, f"-----END SSH HOST KEY {name}-----"]
        ctx.host.log.print("\n".join(marked))
