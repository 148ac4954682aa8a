"""Every key has a case: of the modules' schemas and of our own, at any depth. Bad input does not count.

What a key says about whole stages is checked here, for the cases in
tests/cases/configuration that have beside the usual

    modules: []             # no module by itself
    boot:
      stages: [final]       # run whole, as a boot does
      modules: {runcmd: failed, phone_home: skipped}    # the modules that there are, and what becomes of each
      order: [timezone, locale]     # of those that ran
      commands: […]  ran: […]  files: {…}  problems: […]  errors: […]   # as in `expect`
      access: none          # to the metadata service
      datasource: NoCloud   # that is found
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from casebook import Book, differences
from cloudboot import datasource, lockdown, modules, store
from cloudboot.boot import Boot
from cloudboot.checker import check
from cloudboot.config import CORE_SCHEMA
from cloudboot.instance import Kind
from cloudboot.module import Stage
from cloudboot.runner import Runner
from cloudboot.userdata.document import load
from cloudboot.userdata.launch_index import KEY
from cloudboot.userdata.merge import KEYS
from unit.test_cases import compare

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = Path(__file__).parent.parent / "cases"
FILES = sorted(path for path in CASES.glob("*/*.yaml") if path.parent.name != "bad-input")
SCHEMAS: dict[str, Any] = {**CORE_SCHEMA, **modules.schemas(fresh=True), KEY: {}, **{key: {} for key in KEYS}}
# Modules that have nothing for the owner to say in user data but their parts or the image's files.
WITHOUT_KEYS = {
    "part_handlers",
    "boothooks",
    "scripts_per_once",
    "scripts_per_boot",
    "scripts_per_instance",
    "scripts_user",
    "kernel_hold",
}


def declared(schema: dict[str, Any], place: str) -> Iterator[str]:
    """Yield the dotted path of a key and of those below it; items and free names are no step of their own."""
    yield place
    for name, part in schema.get("properties", {}).items():
        yield from declared(part, f"{place}.{name}")
    for part in below(schema):
        yield from list(declared(part, place))[1:]


def used(value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
    """Yield the dotted paths, as `declared` has them, that a value uses."""
    yield place
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from used(value, part, place)
    if isinstance(value, list):
        for item in value:
            yield from used(item, schema.get("items", {}), place)
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, item in value.items():
            if name in known:
                yield from used(item, known[name], f"{place}.{name}")
            elif isinstance(others, dict):
                yield from used(item, others, place)


def old(value: Any, schema: dict[str, Any]) -> bool:
    """Tell whether a value, or something in it, is as the schema calls deprecated."""
    if not all(flaw.deprecated for flaw in check(value, schema)):
        return False
    if "deprecated" in schema or any(old(value, part) for part in schema.get("anyOf", ())):
        return True
    if isinstance(value, list):
        return any(old(item, schema.get("items", {})) for item in value)
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    fields = value.items() if isinstance(value, dict) else ()
    return any(old(item, known.get(name, others)) for name, item in fields if isinstance(known.get(name, others), dict))


def below(schema: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return parts + [schema[word] for word in ("items", "additionalProperties") if isinstance(schema.get(word), dict)]


def configurations(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a case configures: user data or vendor data that is one cloud-config, the image."""
    for text in (case.get("user-data"), case.get("vendor-data")):
        if isinstance(text, str) and text.startswith("#cloud-config"):
            value = load(text, "user-data").value
            if isinstance(value, dict):
                yield value
    yield from (value for value in (case.get("config"), case.get("image")) if value)


USED = {
    path
    for file in FILES
    for value in configurations(yaml.safe_load(file.read_text()))
    for key, item in value.items()
    if key in SCHEMAS
    for path in used(item, SCHEMAS[key], key)
}
DECLARED = sorted({path for key, schema in SCHEMAS.items() for path in declared(schema, key)})


@pytest.mark.parametrize("key", DECLARED)
def test_every_key_has_a_case(key: str) -> None:
    assert key in USED, f"no file below tests/cases, bad-input apart, has {key} in its user data"


def test_there_are_many_cases() -> None:
    assert len(FILES) >= 150


@pytest.mark.parametrize("module", modules.ORDER)
def test_every_module_has_cases_of_several_kinds(module: str) -> None:
    """One that does its work, and one in which something is wrong with what was asked."""
    cases = [yaml.safe_load(file.read_text()) for file in FILES if file.parent.name == module]
    kinds = {bool(case["expect"].get("problems") or case["expect"].get("errors")) for case in cases}
    assert cases, f"no case in tests/cases/{module}"
    assert len(kinds) == 2 or module in WITHOUT_KEYS, (
        f"tests/cases/{module}: {'good' if True in kinds else 'bad'} ones lack"
    )


@pytest.mark.parametrize("module", [each.name for each in modules.load_all() if "'deprecated'" in str(each.schema)])
def test_every_module_with_old_spellings_has_a_case_of_them(module: str) -> None:
    schema = modules.load(module).schema
    assert any(
        old(item, schema[key])
        for file in FILES
        if file.parent.name == module
        for value in configurations(yaml.safe_load(file.read_text()))
        for key, item in value.items()
        if key in schema
    )


STAGES = [path for path in FILES if path.parent.name == "configuration" and "boot" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_stages(path: Path, tmp_path: Path) -> None:
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    wanted: dict[str, Any] = case["boot"]
    book = Book({**case, "modules": list(wanted.get("modules", {}))}, tmp_path, "")
    runner = runner_of(book)
    ran: list[str] = []
    for stage in map(Stage, wanted.get("stages", ())):
        book.status.stage(stage, "started")
        runner.run_stage(stage)
        book.status.stage(stage, "done")
        ran += [name for name in book.status.values["modules"] if name not in ran]
    found = {name: book.status.values["modules"].get(name, {}).get("state") for name in wanted.get("modules", {})}
    assert found == wanted.get("modules", {}), book.status.values
    if "order" in wanted:
        assert [name for name in ran if found[name] != "skipped"] == wanted["order"]
    if "ran" in wanted:
        assert [text[4:] for text in book.changes() if text.startswith("run ")] == wanted["ran"]
    if "commands" in wanted:
        assert book.outcomes() == wanted["commands"]
    assert not differences(book, wanted.get("files", {}))
    problems: list[str] = []
    if "access" in wanted:
        assert lockdown.policy(runner.config.value, book.host, problems).access == wanted["access"]
    assert not compare("problems", book.status.values["recoverable"] + problems, wanted.get("problems", []))
    assert not compare("errors", book.status.values["errors"], wanted.get("errors", []))
    if "datasource" in wanted:
        source = datasource.find(book.host, store.image(book.host)[0].value)
        assert source is not None
        assert source.source.name == wanted["datasource"]


def runner_of(book: Book) -> Runner:
    """Return what runs the stages of a case: the modules that it names, on the configuration that it gives."""
    raw = book.case.get("user-data")
    config = store.config(book.host, book.instance, raw.encode() if raw else None, None, SCHEMAS, book.services())
    for problem in config.problems:
        book.status.problem(problem)
    chosen = [modules.load(name) for name in modules.ORDER if name in book.names]
    image = Boot(book.host).image_facts()
    return Runner(
        book.host, book.ledger, config, book.instance, chosen, book.status, book.fetcher, kind=Kind.NEW, image=image
    )
