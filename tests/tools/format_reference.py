"""Make tests/data/format_reference.json: what Debian's cloud-init package makes of user data.

`python tests/tools/format_reference.py` downloads the package, unpacks it (nothing is installed), and lets its own code
read every row of `rows()`. Three kinds of rows:

- `split`: user data, and what is at the URLs that it includes, all in base64; its parts: type, file name, content;
- `render`: a template and its variables; the text that comes of it;
- `patch`: parts of cloud-config and JSON patches; the configuration at the end.
"""

from __future__ import annotations

import base64
import gzip
import importlib
import json
import logging
import random
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tests/, as under pytest

from tools.reference import make

TABLE = Path(__file__).parents[1] / "data" / "format_reference.json"
RANDOM_ROWS = 120
Row = dict[str, Any]

CONFIG, SCRIPT = "#cloud-config\nhostname: a\n", "#!/bin/sh\necho hi\n"
HOOK, HANDLER = "#cloud-boothook\n#!/bin/sh\necho hook\n", "#part-handler\ndef list_types(): return []\n"
PATCH, JINJA = (
    '#cloud-config-jsonp\n[{"op": "add", "path": "/a", "value": 1}]\n',
    "## template: jinja\n#cloud-config\na: b\n",
)
TYPES = [
    "text/plain", "text/x-not-multipart", "text/cloud-config", "text/x-shellscript", "text/x-shellscript-per-boot",
    "text/x-shellscript-per-instance", "text/x-shellscript-per-once", "text/cloud-boothook", "text/part-handler",
    "text/cloud-config-jsonp", "text/x-own", "application/x-own",
]  # fmt: skip
TEXTS = [
    CONFIG,
    SCRIPT,
    HOOK,
    HANDLER,
    PATCH,
    "plain text\n",
    " \n" + SCRIPT,
    CONFIG.upper(),
    "#cloud-configs\n",
    "#!\n",
]
WEB = {
    "http://a/config": CONFIG,
    "http://a/script": SCRIPT,
    "http://a/list": "#include\nhttp://a/script\nhttp://a/config\n",
}


def rows() -> list[Row]:
    """Return the questions."""
    found = [
        _split(text)
        for text in [*TEXTS, JINJA, "#upstart-job\n", "", "##template: jinja\n", "#Include http://a/config"]
    ]
    found += [_split(gzip.compress(text.encode(), mtime=0)) for text in TEXTS[:3]]
    found += [_split(text) for text in _lists()]
    found += [_split(_mime([(kind, "", text)])) for kind in TYPES for text in TEXTS[:6]]
    found += [_split(_mime([("text/plain", "", CONFIG), ("text/x-shellscript", "my name/of it.sh", SCRIPT)]))]
    found += [_split(_archive(items)) for items in _items()]
    packed = gzip.compress(SCRIPT.encode(), mtime=0)
    found += [_split(_mime([(kind, "", packed)])) for kind in ("application/gzip", "application/x-gzip-compressed")]
    inner = (
        _mime([("text/plain", "", SCRIPT), ("text/cloud-config", "x", CONFIG)])
        .split(b"\n", 1)[1]
        .replace(b"=B=", b"=C=")
    )
    head = b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=B="\n\n--=B=\n'
    found += [_split(head + inner + b"\n--=B=\nContent-Type: text/plain\n\n" + CONFIG.encode() + b"\n--=B=--\n")]
    chance = random.Random(7)
    found += [_random_split(chance) for _ in range(RANDOM_ROWS)]
    found += [{"kind": "render", "text": text, "variables": VARIABLES} for text in TEMPLATES]
    found += [{"kind": "patch", "parts": [["text/cloud-config", value], *patches]} for value, patches in _patches()]
    return found


VARIABLES = {
    "v1": {"region": "r", "cloud-name": "c", "instance_id": "i-1", "none": None, "number": 3},
    "ds": {"meta_data": {"public-ipv4": "192.0.2.1", "a.b": "dotted", "list": ["x", "y"], "in": {"ner-most": 1}}},
}
TEMPLATES = [
    "## template: jinja\n" + text
    for text in (
        "#cloud-config\nhostname: {{ v1.region }}\n", "{{ region }} {{ cloud_name }} {{ v1.cloud_name }} {{ v1['cloud-name'] }}\n",
        "{{ ds.meta_data.public_ipv4 }} {{ ds.meta_data.a_b }} {{ ds.meta_data['in'].ner_most }}\n",
        "{{ ds['meta_data']['public-ipv4'] }}", "a\n{{ nope }} {{ v1.nope }} {{ ds.meta_data.nope }}\n", "{{ nope }}{{ nope }}",
        "{% for x in ds.meta_data.list %}\n- {{ x }}\n{% endfor %}\nend\n", "{% if v1.region == 'r' %}\nyes\n{% else %}\nno\n{% endif %}\n",
        "{% set x = [] %}{% do x.append(1) %}{{ x }}\n", "{# comment #}\nx\n", "{% if nope is defined %}x{% endif %}{{ nope|default('d') }}\n",
        "  {% if true %}\n  indented\n  {% endif %}\n", "x\n\n\n", "no end", "{{ none }} {{ number }} {{ number + 1 }}\n",
        "{% raw %}{{ kept }}{% endraw %}\n", "{{ nope ~ 'x' }} {{ nope | upper }}\n", "{{ v1.region | upper }}\n",
        "{{ range(3) | list }} {{ 'a,b'.split(',') }}\n", "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}\n",
        "{{ nope - 1 }}\n", "{{ 1 / 0 }}\n", "{% if %}\n", "{{ x\n", "{{ ().__class__.__bases__ }}\n", "<&> {{ '<&>' }}\n",
        "{%- if true -%}\n tight \n{%- endif -%}\nend\n", "{{ v1.region }}\r\nx\r\n", "{% for k, v in v1.items() %}{% if k == 'region' %}{{ v }}{% endif %}{% endfor %}\n",
    )
]  # fmt: skip


def _split(raw: str | bytes) -> Row:
    data = raw.encode() if isinstance(raw, str) else raw
    return {"kind": "split", "raw": _b64(data), "web": {url: _b64(text.encode()) for url, text in WEB.items()}}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _lists() -> list[str]:
    return [
        "#include\nhttp://a/config\nhttp://a/script\n",
        "#include-once\n# comment\n\n  http://a/script  \n",
        "#include http://a/config\n#include-once http://a/script\n#include\n#comment\nhttp://a/list\n",
        "#INCLUDE\nhttp://a/config\n",
    ]


def _mime(parts: list[tuple[str, str, str | bytes]]) -> bytes:
    lines = [b"MIME-Version: 1.0", b'Content-Type: multipart/mixed; boundary="=B="', b""]
    for kind, name, content in parts:
        lines += [b"--=B=", f"Content-Type: {kind}".encode()]
        if name:
            lines.append(f'Content-Disposition: attachment; filename="{name}"'.encode())
        if isinstance(content, bytes):
            lines.append(b"Content-Transfer-Encoding: base64")
            content = base64.encodebytes(content)
        lines += [b"", content.encode() if isinstance(content, str) else content]
    return b"\n".join([*lines, b"--=B=--", b""])


def _archive(items: list[Any]) -> str:
    return "#cloud-config-archive\n" + json.dumps(items)


def _items() -> list[list[Any]]:
    return [
        [CONFIG, SCRIPT, HOOK, "hostname: without a header"],
        [
            {"content": CONFIG},
            {"content": "hostname: a", "type": "text/cloud-config"},
            {"content": SCRIPT, "filename": "s.sh"},
        ],
        [{"type": kind, "content": text} for kind in TYPES[:10] for text in (CONFIG, "other\n")],
        [{"content": SCRIPT, "launch-index": 3, "X-Own": "y"}, 7, ["x"], None, {"content": ""}],
        [{"type": "text/plain", "content": "#include\nhttp://a/list\n"}, "#cloud-config-archive\n- '#!/bin/sh'\n"],
    ]


def _random_split(chance: random.Random) -> Row:
    def text(depth: int) -> str:
        if depth and chance.random() < 0.3:
            return _archive([item(depth - 1) for _ in range(chance.randint(1, 3))])
        if chance.random() < 0.2:
            return "#include\n" + "\n".join(chance.choices(list(WEB), k=chance.randint(1, 3)))
        return chance.choice(["", "\n", " "]) + chance.choice(TEXTS)

    def item(depth: int) -> Any:
        return text(depth) if chance.random() < 0.5 else {"content": text(depth), "type": chance.choice(TYPES)}

    def part() -> tuple[str, str, str | bytes]:
        content = text(2)
        packed = chance.random() < 0.3
        return chance.choice(TYPES), chance.choice(["", "a.txt", "../b c"]), content.encode() if packed else content

    if chance.random() < 0.5:
        return _split(text(2))
    return _split(_mime([part() for _ in range(chance.randint(1, 4))]))


def _patches() -> list[tuple[str, list[list[str]]]]:
    value = json.dumps({"a": [1, "two", {"b": True}], "c": {"d": None, "e/f": 1, "~": 2}, "": {"": 3}})

    def one(*operations: Row) -> list[str]:
        return ["text/cloud-config-jsonp", "#cloud-config-jsonp\n" + json.dumps(list(operations))]

    paths = [
        "/a/0",
        "/a/-",
        "/a/3",
        "/a/01",
        "/c/d",
        "/c/e~1f",
        "/c/~0",
        "/c/new",
        "/none/x",
        "//",
        "/a/2/b",
        "/a/1/x",
        "x",
    ]
    found = [
        (value, [one({"op": op, "path": path, "value": 9})]) for op in ("add", "replace", "remove") for path in paths
    ]
    found += [
        (value, [one({"op": op, "from": start, "path": end})])
        for op in ("move", "copy")
        for start in ("/a/0", "/c", "/none")
        for end in ("/a/1", "/c/x", "/z", "/a/-")
    ]
    for path, expected in (("/a/0", 1), ("/a/0", 1.0), ("/a/0", "1"), ("/a", [1, "two", {"b": True}]), ("/c/d", None)):
        found.append(
            (value, [one({"op": "test", "path": path, "value": expected}, {"op": "add", "path": "/ok", "value": 1})])
        )
    found += [
        (value, [one({"op": "add", "path": "/x", "value": 1}, {"op": "remove", "path": "/none"})]),
        (value, [one({"op": "add", "path": "/x", "value": 1}), one({"op": "replace", "path": "/x", "value": 2})]),
        (
            value,
            [["text/cloud-config-jsonp", "#cloud-config-jsonp\n[{]"], one({"op": "add", "path": "/x", "value": 1})],
        ),
        (value, [["text/cloud-config-jsonp", "#cloud-config-jsonp [ ]"]]),
    ]
    return found


def main() -> None:
    """Let the reference work, and write the table."""
    make(TABLE, rows(), __file__)


def drive() -> None:
    """Let the reference read the rows on standard input: here its package is on the path."""
    logging.disable(logging.CRITICAL)
    found = json.load(sys.stdin)
    for row in found:
        row.update({"split": _drive_split, "render": _drive_render, "patch": _drive_patch}[row["kind"]](row))
    json.dump(found, sys.stdout)


def _drive_split(row: Row) -> Row:
    module: Any = importlib.import_module("cloudinit.user_data")
    util = importlib.import_module("cloudinit.util")
    paths = importlib.import_module("cloudinit.helpers").Paths({})

    class Answer:
        def __init__(self, contents: bytes) -> None:
            self.contents = contents

        def ok(self) -> bool:
            return True

        def __str__(self) -> str:
            return self.contents.decode()

    def fetch(url: str, **_: Any) -> Answer:
        return Answer(base64.b64decode(row["web"][url]))

    module.read_file_or_url = fetch
    processor = module.UserDataProcessor(paths)
    processor.ssl_details = {}
    try:
        message = processor.process(base64.b64decode(row["raw"]))
    except Exception as error:  # noqa: BLE001  whatever it raises is its answer
        return {"error": type(error).__name__}
    parts = []
    for part in message.walk():
        if part.get_content_maintype() != "multipart":
            payload = util.fully_decoded_payload(part)
            content = payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else payload
            name = util.clean_filename(part.get_filename() or "")
            parts.append([part.get_content_type(), name, _b64(content)])
    return {"parts": parts}


def _drive_render(row: Row) -> Row:
    module = importlib.import_module("cloudinit.handlers.jinja_template")
    try:
        return {
            "result": module.render_jinja_payload(row["text"], "part-001", json.loads(json.dumps(row["variables"])))
        }
    except Exception as error:  # noqa: BLE001  whatever it raises is its answer
        return {"error": type(error).__name__}


def _drive_patch(row: Row) -> Row:
    module = importlib.import_module("cloudinit.handlers.cloud_config")
    handlers = importlib.import_module("cloudinit.handlers")
    handler = module.CloudConfigPartHandler(importlib.import_module("cloudinit.helpers").Paths({}))
    handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    for number, (kind, text) in enumerate(row["parts"]):
        handler.handle_part(None, kind, str(number), text, None, {})
    return {"result": handler.cloud_buf}


if __name__ == "__main__":
    drive() if "--drive" in sys.argv else main()
