"""`## template: jinja`: what people's templates may use, and what becomes of those that are wrong."""

from __future__ import annotations

import time

import pytest

from cloudboot.userdata import template
from cloudboot.userdata.parts import Kind, Parts, Services, split
from cloudboot.userdata.template import Missing, TemplateFault, render

VARIABLES = {
    "v1": {"region": "eu-central-1", "instance-id": "i-1", "instance_id": "i-1"},
    "instance_id": "i-1",
    "ds": {"meta_data": {"public-ipv4": "192.0.2.1", "public_ipv4": "192.0.2.1", "keys": ["a", "b"]}},
}
HEAD = "## template: jinja\n"


def nothing(url: str, *, once: bool) -> bytes:
    raise AssertionError(url)


def read(text: str, *, services: bool = True) -> Parts:
    return split(text.encode(), services=Services(nothing, lambda _: None, lambda: VARIABLES) if services else None)


def rendered(text: str) -> str:
    return render(text, VARIABLES, 1 << 20).text


def test_rendered_and_dispatched_by_the_inner_header() -> None:
    found = read(HEAD + "#cloud-config\nhostname: {{ v1.region }}-{{ instance_id }}\n")
    (part,) = found.parts
    assert part.kind is Kind.CLOUD_CONFIG
    assert part.content == b"\n#cloud-config\nhostname: eu-central-1-i-1\n", "lines keep their numbers"
    assert (found.problems, found.volatile) == ([], True)
    for head, kind, content in (
        ("#!/bin/sh\n", Kind.SCRIPT, b"#!/bin/sh\necho i-1\n"),
        ("#cloud-boothook\n#!/bin/sh\n", Kind.BOOTHOOK, b"#!/bin/sh\necho i-1\n"),
        ("#cloud-config-jsonp\n", Kind.JSONP, b"\n#cloud-config-jsonp\necho i-1\n"),
    ):
        (part,) = read(HEAD + head + "echo {{ instance_id }}\n").parts
        assert (part.kind, part.content) == (kind, content)


def test_the_language() -> None:
    assert rendered("{% for key in ds.meta_data['keys'] %}\n- {{ key }}\n{% endfor %}\nend\n") == "- a\n- b\nend\n"
    assert rendered("{% set x = [] %}{% do x.append(1) %}{{ x | length }}\n{# gone #}\n.") == "1\n."
    assert rendered("{{ ds['meta_data']['public-ipv4'] }} {{ ds.meta_data.public_ipv4 }}") == "192.0.2.1 192.0.2.1"
    assert rendered("{% raw %}{{ x }}{% endraw %}\n\n") == "{{ x }}\n"
    assert rendered("{{ '<&>' }} {{ {'a': 1} | tojson }}") == '<&> {"a": 1}'
    assert rendered("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ range(3) | join(',') }}") == "[1]0,1,2"


def test_a_missing_variable_is_named_with_its_line() -> None:
    answer = render(
        "a\n{{ nope }}\n{{ ds.meta_data.gone }} {{ ds.no.where }}{{ nope ~ '!' }}{{ nope }}", VARIABLES, 1000
    )
    said = "CI_MISSING_JINJA_VAR/"
    assert answer.text == f"a\n{said}nope\n{said}gone {said}where{said}nope!{said}nope"
    assert answer.missing == [Missing("nope", 2), Missing("gone", 3), Missing("where", 3), Missing("nope", 3)]
    assert rendered("{% if nope is defined %}x{% endif %}{{ nope | default('d') }}{% if nope %}y{% endif %}") == "d"
    assert rendered("{{ nope['x'] }} {{ nope[0] }}{% for a in nope %}{% endfor %}") == f"{said}x {said}0"
    found = read(HEAD + "#cloud-config\nhostname: {{ v1.hostnam }}\n")
    assert found.parts[0].content == b"\n#cloud-config\nhostname: CI_MISSING_JINJA_VAR/hostnam\n"
    assert [str(problem) for problem in found.problems] == [
        "user-data:3: warning: jinja: there is no variable 'hostnam': CI_MISSING_JINJA_VAR/hostnam stands for it"
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\n{% if %}", 2, "Expected an expression, got 'end of statement block'"),
        ("a\n\n{{ nope", 3, "unexpected end of template"),
        ("{% fi %}", 1, "Encountered unknown tag 'fi'"),
        ("a\n{{ 'hunter2' | nofilter }}", 2, "No filter named 'nofilter'"),
        ("\n{{ nope - 1 }}", 2, "computes with a variable that there is not ('nope' is undefined)"),
        ("\n{{ nope() }}", 2, "computes with a variable that there is not"),
        ("\n{{ 1 / 0 }}", 2, "ZeroDivisionError when rendered"),
        ("{{ 'hunter2' + 1 }}", 1, "TypeError when rendered"),
        ("{% include 'hunter2' %}", 1, "wants another template, and there is none"),
        ("{% import 'x' as y %}", 1, "wants another template"),
        ("\n{{ ().__class__.__bases__ }}", 2, "access to attribute '__class__' of 'tuple' object is unsafe"),
        ("{{ instance_id.__class__['__bases__'] }}", 1, "is unsafe"),
        ("{{ " + "(" * 20_000, 0, "nested too deeply"),
        ("{{ " + "[" * 3000 + "]" * 3000 + " }}", 0, "nested too deeply"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, 0, "nested too deeply"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 1, "RecursionError"),
        ("{{ 'a' * 100000000000 }}", 1, "makes more than 8388608 characters at once"),
        ("{{ [1] * 100000000000 }}", 1, "makes more than"),
        ("{{ 2 ** 100000000 ** 2 }}", 1, "makes more than"),
        ("{{ '%99999999999d' % 1 }}", 1, "makes more than"),
        ("{{ 'a' | center(100000000000) }}", 0, "makes more than 1048576 characters"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", 1, "counts to more than"),
        ("{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}", 0, "makes more than 1048576 characters"),
    ],
)
def test_what_cannot_be_rendered(text: str, line: int, said: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateFault) as caught:
        rendered(text)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.line == line
    assert time.process_time() - began < 3


def test_an_error_loses_the_part_alone() -> None:
    found = read(
        "#cloud-config-archive\n- |\n  ## template: jinja\n  #cloud-config\n  hostname: {{ 1 / 0 }}\n- 'timezone: Etc/UTC'\n"
    )
    assert [part.content for part in found.parts] == [b"timezone: Etc/UTC"]
    assert [str(problem) for problem in found.problems] == [
        "part-001:3: jinja: ZeroDivisionError when rendered: left out"
    ]


def test_what_a_template_cannot_be() -> None:
    for inner in ("#include\nhttp://a\n", "#cloud-config-archive\n- a\n", "#part-handler\n"):
        found = read(HEAD + inner)
        assert found.parts == []
        assert "a template can be cloud-config, a JSON patch, a script or a boothook, and is text/" in str(
            found.problems[0]
        )
    assert "user-data:2:1: jinja: begins with 'hostname: …'" in str(read(HEAD + "hostname: a\n").problems[0])
    assert read(HEAD).problems == []


def test_declared_as_something_else() -> None:
    mime = "MIME-Version: 1.0\nContent-Type: {}\n\n" + HEAD + "#cloud-config\nhostname: {{{{ instance_id }}}}\n"
    assert read(mime.format("text/jinja2")).parts[0].content.endswith(b"hostname: i-1\n")
    assert read(mime.format("text/plain")).parts[0].content.endswith(b"hostname: i-1\n")
    trusted = read(mime.format("text/cloud-config"))
    assert trusted.parts[0].content.endswith(b"hostname: {{ instance_id }}\n")
    assert "its jinja is not rendered: declare it text/jinja2" in str(trusted.problems[0])
    without_header = "MIME-Version: 1.0\nContent-Type: text/jinja2\n\n#!/bin/sh\necho {{ instance_id }}\n"
    assert read(without_header).parts[0].content == b"#!/bin/sh\necho i-1\n"


def test_without_variables_its_syntax_is_checked() -> None:
    found = read(HEAD + "#cloud-config\nhostname: {{ anything }}\n", services=False)
    assert [(str(each.mark), each.kind) for each in found.unresolved] == [("user-data:1:1", "text/jinja2")]
    assert (found.parts, found.problems, found.volatile) == ([], [], True)
    found = read("\n\n" + HEAD + "#cloud-config\nhostname: {{ anything\n", services=False)
    assert str(found.problems[0]).startswith("user-data:5: jinja: ")


def test_the_header_leaves_its_line() -> None:
    assert template.without_header("\n## Template: Jinja\n#!/bin/sh\n") == "\n\n#!/bin/sh\n"
    assert template.without_header("## template: jinja") == ""
    assert template.without_header("#!/bin/sh\n") == "#!/bin/sh\n"


def test_many_missing_variables_take_time_in_proportion() -> None:
    began = time.process_time()
    answer = render("{{ nope }}\n" * 20_000, {}, 1 << 20)
    assert (len(answer.missing), answer.missing[:2]) == (1000, [Missing("nope", 1), Missing("nope", 2)])
    assert render("{% for i in range(50000) %}\n{{ nope }}{% endfor %}", {}, 8 << 20).missing == [Missing("nope", 2)]
    assert time.process_time() - began < 10
