"""Write docs/modules: a page for each module, from its own words, its schema and its cases.

`.venv/bin/python tests/tools/module_pages.py` (`make docs`). What a module touches is what its cases show: the files
that they expect, and the programs that they see run.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # tests/, as under pytest

from cloudboot import modules
from cloudboot.runner import LISTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.checker import Schema
    from cloudboot.module import Module

FOLDER = Path(__file__).parents[2] / "docs/modules"
CASES = Path(__file__).parents[1] / "cases"
OWN_STATE = ("/var/lib/cloudboot", "/run/cloudboot", "/proc", "/sys", "/dev")
OFTEN = {
    "once": "once in the life of this disk",
    "per-instance": "once for each instance",
    "per-boot": "once in each boot",
    "always": "every time its stage runs",
}
WORDS = {"object": "mapping", "array": "list", "boolean": "true or false", "integer": "whole number", "null": "nothing"}


def pages() -> dict[str, str]:
    """Return all pages, by file name."""
    everything = modules.load_all()
    made = {f"{each.name}.md": page(each) for each in everything}
    rows = [
        f"| [{each.name}]({each.name}.md) | {each.stage} | {each.frequency} | {first(each)} |" for each in everything
    ]
    head = "# Modules\n\nIn the order in which they run. Written by `make docs`.\n\n"
    return {
        **made,
        "README.md": f"{head}| module | stage | frequency | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n",
    }


def first(module: Module) -> str:
    """Return the first sentence of a module's own words."""
    return " ".join(module.doc.strip().split("\n\n")[0].split()).replace("|", "\\|")


def page(module: Module) -> str:
    """Return the page of a module."""
    text = [f"# {module.name}", "", "\n".join(line.strip() for line in module.doc.strip().splitlines()), ""]
    text += facts(module)
    rows = [row for key, schema in module.schema.items() for row in described(schema, key)]
    if rows:
        text += ["", "## Keys", "| key | value | default |", "|---|---|---|", *rows]
    samples = [example for schema in module.schema.items() for example in examples(*schema)]
    if samples:
        text += ["", "## Example", "```yaml", "#cloud-config", *samples, "```"]
    files, programs = touched(module.name)
    if files or programs:
        text += ["", "## What it touches"]
        text += [f"- files: {', '.join(f'`{path}`' for path in files)}"] if files else []
        text += [f"- programs: {', '.join(f'`{name}`' for name in programs)}"] if programs else []
    return "\n".join(text) + "\n"


def facts(module: Module) -> list[str]:
    """Return when a module runs, and under which conditions."""
    lines = [f"- runs: {OFTEN[module.frequency]} ({module.frequency}), in the {module.stage} stage"]
    if module.keys:
        lines.append(f"- only if the configuration has {' or '.join(f'`{key}`' for key in module.keys)}")
    if module.distros:
        lines.append(f"- only on {', '.join(module.distros)}")
    if module.network or module.metadata:
        lines.append(f"- waits for {'the network' if module.network else 'the metadata'}")
    if module.essential:
        lines.append(
            f"- always: a list (`{LISTS[module.stage]}`) that leaves it out does not count, the login hangs on it"
        )
    if not module.converges:
        lines.append("- not run again by itself after it was interrupted (`on_interrupt`)")
    return lines


def described(schema: Schema, key: str) -> Iterator[str]:
    """Yield a row for a key, and one for each below it; items of lists are `[]`."""
    told = kind(schema)
    if "deprecated" in schema:
        told += f"; deprecated ({schema['deprecated']})"
    default = f"`{plain(schema['default'])}`" if "default" in schema else ""
    yield f"| `{key}` | {told} | {default} |".replace("\n", " ")
    for part in parts(schema):
        for name, below in part.get("properties", {}).items():
            yield from described(below, f"{key}{'[]' if part is not schema else ''}.{name}")


def parts(schema: Schema) -> list[Schema]:
    """Return the schemas whose keys are written below a key: its own, its items', and those of alternatives."""
    found = [schema]
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found += parts(each)
    if isinstance(schema.get("items"), dict):
        found += parts(schema["items"])
    return [each for number, each in enumerate(found) if each not in found[:number]]


def kind(schema: Schema) -> str:
    """Return what a value may be, in words."""
    if "x-form" in schema:
        return str(schema["x-form"])
    if "enum" in schema:
        return ", ".join(f"`{plain(item)}`" for item in schema["enum"])
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(kind(each) for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))))
    names = schema.get("type", "any value")
    told = " or ".join(WORDS.get(name, name) for name in ([names] if isinstance(names, str) else names))
    told = told.replace("string", "text")
    if isinstance(schema.get("items"), dict) and "array" in names:
        told += f" ({kind(schema['items'])})"
    if "minimum" in schema:
        told += f", at least {schema['minimum']}"
    if "maximum" in schema:
        told += f", at most {schema['maximum']}"
    return f"{told}, secret" if schema.get("x-secret") else told


def plain(value: Any) -> str:
    """Return a value as YAML has it, in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip().replace("|", "\\|")


def examples(key: str, schema: Schema) -> Iterator[str]:
    """Yield the lines of a key's first example."""
    if schema.get("examples") and "deprecated" not in schema:
        text: str = yaml.safe_dump({key: schema["examples"][0]}, sort_keys=False, allow_unicode=True, width=100)
        yield text.rstrip("\n")


def touched(name: str) -> tuple[list[str], list[str]]:
    """Return the files and programs of a module's cases."""
    files: set[str] = set()
    programs: set[str] = set()
    for path in sorted((CASES / name).glob("*.yaml")):
        expect = yaml.safe_load(path.read_text(encoding="utf-8"))["expect"]
        files |= {
            re.sub(r"/i-[0-9a-f]{17}", "/ID", guest)
            for guest, what in expect.get("files", {}).items()
            if what is not None and not guest.startswith(OWN_STATE)
        }
        programs |= {line.split()[0] for line in expect.get("ran", ())}
    return sorted(files), sorted(programs)


def main() -> None:
    """Write the pages, and remove those of modules that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
