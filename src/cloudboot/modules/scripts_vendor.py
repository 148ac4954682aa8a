"""scripts_vendor: the vendor's scripts, unless the owner switched them off."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.scripts import none_of, run_parts
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.typed import Any

SWITCH: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "enabled": {"type": ["boolean", "string"]},
        "prefix": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "integer"]}}]},
        "disabled_handlers": {"type": "array", "items": {"type": "string"}},
    },
}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={"vendor_data": {**SWITCH, "examples": [{"enabled": False}]}},
    keys=(),
    converges=False,
    idle=none_of("vendor"),
)
def scripts_vendor(ctx: Context) -> None:
    """Run the vendor data's scripts once for each instance; `vendor_data: {enabled: false}` leaves them out.

    `prefix` is a command that each is given to.
    """
    settings = ctx.config.get("vendor_data") or {}
    if str(settings.get("enabled", True)).lower() in ("false", "0", "no", "off"):
        return
    prefix = settings.get("prefix") or []
    words = [prefix] if isinstance(prefix, str) else [str(word) for word in prefix]
    run_parts(ctx, "vendor", prefix=words, image=False)
