"""`cloudboot schema`: what a boot would say of a user data, said on a laptop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudboot.check import Report, as_json, as_text, check
from cloudboot.problem import Level
from recipes import made

CASES = Path(__file__).parent.parent / "cases"
BAD = sorted((CASES / "bad-input").glob("*.yaml"))
GOOD = sorted(path for path in CASES.glob("*/*.yaml") if path.parent.name != "bad-input")

# What is wrong there depends on the machine: accounts, zones, what the image brings.
OF_MACHINES = {
    "include-of-a-file-that-is-not-there",
    "template-variable-missing",
}


def said(report: Report) -> list[str]:
    return [str(each) for each in report.problems]


def test_says_what_is_wrong_where_and_what_was_meant() -> None:
    report = check(
        b"#cloud-config\nhostnam: web\nusers:\n- {name: a, shel: x, lock-passwd: true}\noutput: {}\n", "web.yaml"
    )
    assert said(report) == [
        "web.yaml:2:1: hostnam: unknown key: did you mean 'hostname'?: left out",
        "web.yaml:4:13: users[0].shel: unknown key: did you mean 'shell'?: left out",
        "web.yaml:4:22: deprecated: users[0].lock-passwd: deprecated since 22.3: use lock_passwd",
        "web.yaml:5:1: warning: output: not supported yet: it does nothing",
    ]
    assert not report.well
    assert as_text(report, "web.yaml").splitlines()[-1] == "web.yaml: 2 errors, 1 warning, 1 deprecation"
    first = json.loads(as_json(report))["problems"][0]
    assert first == {
        "source": "web.yaml",
        "line": 2,
        "column": 1,
        "level": "error",
        "text": "hostnam: unknown key: did you mean 'hostname'?: left out",
    }


@pytest.mark.parametrize(
    "text",
    ["", "#cloud-config\n{}\n", "#cloud-config\nntp: {}\n", "#cloud-config\nusers:\n- {name: a, lock-passwd: true}\n"],
    ids=["nothing", "empty", "not-supported-yet", "deprecated"],
)
def test_what_works_or_is_only_lacking_is_well(text: str) -> None:
    assert check(text.encode(), "x").well


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_every_bad_input_is_told_without_a_machine(path: Path) -> None:
    """What the boot says of the text itself, `schema` says too; what only a machine can know is not asked of it."""
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    raw = made(case["user-data"])
    report = check(raw, "user-data")
    if case.get("secret"):
        assert case["secret"] not in as_text(report, "user-data") + as_json(report)
    expected = case.get("problems", [])
    told = said(report)
    assert {text for text in told if "deprecated" not in text} <= {
        text.replace("stays debian", "stays default") for text in expected
    }
    serious = [text for text in told if "deprecated" not in text and "not supported yet" not in text]
    assert report.well == (not serious)
    if not told and expected:
        assert path.stem in OF_MACHINES, expected


@pytest.mark.parametrize("path", GOOD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_the_cases_call_right_is_right(path: Path) -> None:
    """A case without problems and errors has no mistakes for `schema` either."""
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    raw = case.get("user-data")
    if raw is None and "config" in case:
        raw = "#cloud-config\n" + yaml.safe_dump(case["config"])
    report = check(made(raw) if raw is not None else b"", "user-data")
    expected = case["expect"].get("problems", [])
    for text in [text for text in said(report) if "deprecated" not in text]:
        assert any(each in text for each in expected), text


def test_the_launch_index_and_auto_scaling() -> None:
    section = b'#cloud-config\ninstances-cloud-config:\n  "1": {hostname: a}\n'
    (note,) = check(section, "x").notes
    assert str(note.mark) == "x:2:1"
    assert "Auto Scaling" in note.text
    assert check(section, "x").well
    assert not check(b'#cloud-config\ninstances-cloud-config:\n  "*": {hostname: a}\n', "x").notes
    assert check(b"#cloud-config-archive\n- {launch-index: 3, content: 'a: 1'}\n", "x").notes


def test_a_section_for_another_instance_is_checked_too() -> None:
    text = b'#cloud-config\ninstances-cloud-config:\n  "7": {hostnam: a}\n'
    assert said(check(text, "x")) == ["x:3:9: hostnam: unknown key: did you mean 'hostname'?: left out"]


def test_what_is_not_looked_into_is_named() -> None:
    report = check(b"#include\nhttps://user:hunter2@example.com/a?token=hunter2\n", "x")
    assert report.well
    assert [each.text for each in report.notes] == ["https://example.com/a: not looked into here"]


def test_too_long_for_ec2() -> None:
    report = check(b"#cloud-config\n" + b"#" * 17000 + b"\n", "x")
    assert [each.level for each in report.problems] == [Level.WARNING]
    assert not report.well


def run(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "cloudboot", "schema", *words], input=stdin, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_verb(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("#cloud-config\nhostname: web\n")
    bad.write_text("#cloud-config\nhostnam: web\n")
    assert run(str(good)) == (0, f"{good}: well\n", "")
    assert run("--config-file", str(bad))[0] == 1
    assert run("-", stdin=bad.read_bytes())[:2] == (
        1,
        "stdin:2:1: hostnam: unknown key: did you mean 'hostname'?: left out\n-: 1 error\n",
    )
    status, out, err = run()
    assert (status, out) == (64, "")
    assert "give one file" in err
    assert run(str(tmp_path / "none")) == (64, "", f"cloudboot: schema: {tmp_path}/none: No such file or directory\n")
