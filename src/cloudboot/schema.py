"""The published JSON schema of user data: every key that cloudboot takes, for editors and for tests.

It is derived from the modules' schemas. `python -m cloudboot.schema` prints it; docs/cloud-config.schema.json is that.
Draft 7, and patterns as JavaScript has them, is what editors' YAML plugins understand best; what they know beyond it
(`deprecated`, `deprecationMessage`, `patternErrorMessage`) other readers ignore.
"""

from __future__ import annotations

import re

from cloudboot import modules
from cloudboot.compose import OF_MODULES
from cloudboot.config import CORE_SCHEMA, NOT_HERE
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.userdata.launch_index import DIGITS, KEY
from cloudboot.userdata.merge import KEYS as MERGE_KEYS

if TYPE_CHECKING:
    from cloudboot.checker import Schema

# What a key that is no module's does, in one sentence.
CORE_TEXTS = {
    "frequency": "How often modules run, by the module's name; over the `cloud_*_modules` lists of the same source.",
    "on_error": "What happens when a module fails: `continue`, `stop` the rest of the stage, or `fail` the boot.",
    "on_interrupt": "What becomes of commands that a power cut interrupted: `stop`, `rerun` them all, or `resume`.",
    "rerun_on_change": "Modules that run again when the part of the configuration that they read has changed.",
    "cloud_init_modules": "The modules of the network stage, in order, each with a frequency if wanted.",
    "cloud_config_modules": "The modules of the config stage, in order, each with a frequency if wanted.",
    "cloud_final_modules": "The modules of the final stage, in order, each with a frequency if wanted.",
    "unverified_modules": "Accepted for compatibility: it does nothing.",
    "metadata_access": "Who may ask the metadata service once the crawl is over: `root`, `none`, `open`, or a list.",
    "disable_ec2_metadata": "Shut the metadata service to everybody, root too: `metadata_access: none`.",
    "datasource_list": "The datasources to look for, in order; of use in the image's configuration.",
    "datasource": "Settings of datasources, by name; of use in the image's configuration.",
    "default_user": "The account that `default` in `users` stands for; of use in the image's configuration.",
    "system_info": "The default user as cloud-init's images have it; of use in the image's configuration.",
    "allow_userdata": "Whether user data counts at all; of use in the image's configuration.",
    "launch-index": "The instance that this part is for, by its `ami-launch-index`; others leave it out.",
    "version": "Accepted for compatibility: it does nothing.",
    "merge_how": "How this part is merged into the ones before it.",
    "merge_type": "As `merge_how`.",
    KEY: "Configuration for some instances of one launch, by `ami-launch-index`, over everything else here.",
}
OWN_WORDS = ("x-secret", "x-form", "x-whole", "x-bytes")  # the checker's annotations, of no use to others
OF_SCHEMAS = ("items", "additionalProperties", "anyOf", "oneOf")  # keywords whose value is a schema, or a list of some
OF_NAMED_SCHEMAS = ("properties", "patternProperties")

NAMES: Schema = {"type": ["array", "string", "integer", "null"], "items": {"type": ["string", "integer"]}}
ACCESS: Schema = {
    "anyOf": [
        {"enum": ["root", "none", "open", None]},
        {
            "type": "object",
            "required": ["allow"],
            "additionalProperties": False,
            "properties": {
                "allow": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "users": NAMES,
                        "groups": NAMES,
                        "units": {"type": ["array", "string", "null"], "items": {"type": "string"}},
                        "forwarded": {"type": "boolean"},
                    },
                }
            },
        },
    ],
    "examples": ["root", {"allow": {"users": ["prometheus"]}}],
}
MERGER = r"^\s*([mM][_-])?([dD][iI][cC][tT]|[lL][iI][sS][tT]|[sS][tT][rR])"
MERGE_RULE: Schema = {
    "anyOf": [
        {"type": "string", "pattern": rf"^\s*$|{MERGER}\([^+]*\)(\s*\+({MERGER[1:]}\([^+]*\))?)*\s*$"},
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "required": ["name", "settings"],
                        "properties": {"name": {"type": "string", "pattern": r"^\s*(m[_-])?(dict|list|str)\s*$"}},
                    },
                    {"type": "array", "minItems": 1},
                ]
            },
        },
        {"type": "null"},
    ],
    "examples": ["list(append)+dict(no_replace,recurse_list)+str()"],
}
INDEX = rf"(0|[1-9][0-9]{{0,{DIGITS - 1}}})"
INDICES = rf"\s*{INDEX}\s*(-\s*{INDEX}\s*)?"
# A section is a whole configuration, but holds no sections.
SECTIONS: Schema = {
    "type": ["object", "null"],
    "patternProperties": {
        rf"^\s*\*\s*$|^{INDICES}(,{INDICES})*$": {"allOf": [{"$ref": "#"}, {"properties": {KEY: False}}]}
    },
    "additionalProperties": False,
    "examples": [{"0": {"hostname": "head"}, "1-9": {"hostname": "worker"}, "*": {"timezone": "Etc/UTC"}}],
}


def published() -> Schema:
    """Return the JSON schema (draft 7) of a cloud-config as cloudboot takes it."""
    properties: dict[str, Schema] = {}
    for module in modules.load_all():
        told = _first_sentence(module.doc)
        for key, schema in module.schema.items():
            properties.setdefault(key, {"title": module.name, **_described(schema, told)})
    properties |= {key: _described(schema, CORE_TEXTS[key]) for key, schema in CORE_SCHEMA.items()}
    for key in OF_MODULES:
        properties[key] |= _by_module(properties[key]["additionalProperties"])
    own = {"metadata_access": ACCESS, KEY: SECTIONS, **dict.fromkeys(MERGE_KEYS, MERGE_RULE)}
    properties |= {key: _described(schema, CORE_TEXTS[key]) for key, schema in own.items()}
    properties |= {key: {"description": f"{told.capitalize()}."} for key, told in NOT_HERE.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "cloud-config",
        "description": "User data of the kind #cloud-config, as cloudboot takes it.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


def _described(schema: Schema, text: str) -> Schema:
    plain = _plain(schema)
    if "deprecationMessage" in plain:
        text = f"{text} {plain['deprecationMessage']}"
    return {"description": text, **{key: value for key, value in plain.items() if key != "description"}}


def _plain(schema: Any) -> Any:
    """Return a module's schema in the words that everybody knows."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result: Schema = {}
    for word, value in schema.items():
        if word in OF_SCHEMAS:
            result[word] = _plain(value)
        elif word in OF_NAMED_SCHEMAS:
            result[word] = {name: _plain(each) for name, each in value.items()}
        elif word == "deprecated":
            told = f"Deprecated since {value}."
            result |= {"deprecated": True, "deprecationMessage": told, "description": told}
        elif word == "pattern":
            result["pattern"] = _portable(value)
        elif word not in OWN_WORDS:
            result[word] = value
    if "x-form" in schema:
        result["patternErrorMessage"] = f"must be of the form {schema['x-form']}"
    return result


def _portable(pattern: str) -> str:
    """Spell out `(?i:…)`, which JavaScript has not: each letter in either case."""
    whole = re.fullmatch(r"\^\(\?i:(.*)\)\$", pattern)
    if whole is None:
        return pattern
    token = re.compile(r"\\.|\[[^]]*\]|[a-z]")

    def either(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] == "\\":
            return text
        if text[0] == "[":
            return re.sub(r"\\.|[a-z]-[a-z]|[a-z]", lambda m: m[0] if m[0][0] == "\\" else m[0] + m[0].upper(), text)
        return f"[{text}{text.upper()}]"

    return f"^({token.sub(either, whole[1])})$"


def _by_module(schema: Schema) -> Schema:
    """Describe a mapping by names of modules: ours are offered, cloud-init's spellings of them are taken."""
    spelled = "|".join(name.replace("_", "[_-]") for name in modules.ORDER)
    return {
        "properties": dict.fromkeys(modules.ORDER, schema),
        "propertyNames": {"pattern": rf"^\s*(cc[_-])?(config[_-])?({spelled})(\.py)?\s*$"},
    }


def _first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


if __name__ == "__main__":
    import json

    print(json.dumps(published(), indent=1, ensure_ascii=False))
