"""Accounts: every form of `users` means what it says; passwords are judged by the C library; secrets stay inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casebook import Book
from cloudboot import accounts, passwords, sshd, sudoers
from cloudboot.accounts import wanted
from cloudboot.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEBIAN: dict[str, Any] = {"name": "debian", "groups": ["sudo", "adm"], "shell": "/bin/bash"}
HASH = "$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56CcilGrHKLffBsp6dLMG."


@pytest.mark.parametrize(
    ("config", "names", "default"),
    [
        ({}, ["debian"], "debian"),
        ({"users": None}, ["debian"], "debian"),
        ({"users": []}, [], None),
        ({"users": ["default"]}, ["debian"], "debian"),
        ({"users": [{"gecos": "no name means default"}]}, ["debian"], "debian"),
        ({"users": ["bob"]}, ["bob"], None),
        ({"users": ["debian"]}, ["debian"], None),
        ({"users": [["bob", "eve"], "default"]}, ["bob", "eve", "debian"], "debian"),
        ({"users": "bob, default"}, ["bob", "debian"], "debian"),
        ({"users": {"bob": True, "eve": False, "default": {"gecos": "x"}}}, ["bob", "debian"], "debian"),
        ({"user": "admin"}, ["admin"], "admin"),
        ({"user": {"name": "admin"}, "users": ["bob"]}, ["bob", "admin"], "admin"),
        ({"user": {"shell": "/bin/sh"}, "users": []}, ["debian"], "debian"),
        ({"users": [3, None]}, ["debian"], "debian"),
        ({"users": [{"name": "bad name"}, "bob"]}, ["bob"], None),
        ({"users": [{"name": "../etc"}]}, ["debian"], "debian"),
        ({"users": [{"name": "1000"}]}, ["debian"], "debian"),
    ],
)
def test_forms_of_users(config: dict[str, Any], names: list[str], default: str | None) -> None:
    found = wanted(config, DEBIAN)
    assert [account.name for account in found.users] == names
    assert found.default == default


def test_the_real_name_is_merged_over_the_default() -> None:
    found = wanted({"users": ["default", {"name": "debian", "groups": "video, adm", "shell": "/bin/sh"}]}, DEBIAN)
    assert len(found.users) == 1
    assert found.users[0].groups == ("adm", "sudo", "video")
    assert found.users[0].fields["shell"] == "/bin/sh"


def test_underscores_win_over_hyphens() -> None:
    found = wanted({"users": [{"name": "bob", "lock-passwd": True, "lock_passwd": False}]}, DEBIAN)
    assert found.users[0].fields == {"lock_passwd": False}


def test_an_image_without_default_user() -> None:
    found = wanted({}, {})
    assert (found.users, found.default) == ((), None)
    assert found.flaws[0].text == "users: default: the image names no default user"


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ("a, b", {"a": (), "b": ()}),
        (["a", {"b": ["x", "y"]}, {"c": "x"}, {"b": ["z"]}], {"a": (), "b": ("x", "y", "z"), "c": ("x",)}),
        ({"a": ["x"], "b": None}, {"a": ("x",), "b": ()}),
    ],
)
def test_forms_of_groups(value: object, groups: dict[str, tuple[str, ...]]) -> None:
    assert wanted({"groups": value}, DEBIAN).groups == groups


@given(st.lists(st.one_of(st.integers(), st.none(), st.text(max_size=6), st.dictionaries(st.just("name"), st.text()))))
@settings(max_examples=150, deadline=None)
def test_a_list_with_entries_never_means_nobody(users: list[Any]) -> None:
    found = wanted({"users": users}, DEBIAN)
    assert bool(found.users) == bool(users)
    assert all(accounts.valid_name(account.name) for account in found.users)


def test_passwords_are_verified_by_libcrypt() -> None:
    assert passwords.accepts("correct horse", HASH)
    assert passwords.accepts("x", "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$6foLM1JhGupouWKMU70wxK61Kw9ZnecbACjJwRadqM2")
    assert not passwords.accepts("battery", HASH)
    assert not passwords.accepts("*0", "*")
    assert not passwords.accepts("", "")


@pytest.mark.parametrize("text", [HASH, f"!{HASH}", "$y$j9T$abc$def", "$2b$12$abcdef", "!", "*", "", "abJnggxhB/yWI"])
def test_hashes_for_shadow(text: str) -> None:
    passwords.check_field(text)


@pytest.mark.parametrize("text", ["hunter2", "a:b", f"{HASH}\nroot:x", "$6$a b$c"])
def test_no_hashes(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        passwords.check_field(text)
    assert text not in str(raised.value)


def test_random_passwords_have_every_class() -> None:
    def repeating() -> Callable[[int], bytes]:
        state = [0]

        def draw(count: int) -> bytes:
            state[0] = (state[0] + 7) % 256
            return bytes([state[0]] * count)

        return draw

    password = passwords.random_password(repeating())
    assert password == passwords.random_password(repeating())
    drawn = passwords.random_password()
    assert drawn != passwords.random_password()
    for word in (password, drawn):
        assert len(word) == 20
        assert all(
            any(char in kind for char in word)
            for kind in (passwords.LOWER, passwords.UPPER, passwords.DIGITS, passwords.MARKS)
        )


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ("ALL=(ALL) NOPASSWD:ALL", True),
        ("ALL=(ALL:ALL) NOPASSWD: SETENV: /usr/bin/apt, /bin/ls", True),
        ("host1 = /bin/ls", True),
        ("ALL=(ALL NOPASSWD:ALL", False),
        ("NOPASSWD", False),
        ("ALL=", False),
        ("# ALL=ALL", False),
        ("ALL=ALL \\", False),
    ],
)
def test_the_shape_of_sudo_rules(tmp_path: Path, rule: str, good: bool) -> None:
    book = Book({"missing": ["visudo"]}, tmp_path, "users_groups")
    assert (sudoers.bad_rules(book.host, [sudoers.rules("bob", rule)]) == set()) == good


def test_a_rule_that_visudo_refuses_costs_that_rule(tmp_path: Path) -> None:
    book = Book({"tools": [{"argv": "visudo", "status": 1}]}, tmp_path, "users_groups")
    granted = [sudoers.rules("bob", ["ALL=ALL", "ALL=(x) ALL"])]
    assert sudoers.bad_rules(book.host, granted) == {("bob", "ALL=ALL"), ("bob", "ALL=(x) ALL")}
    assert book.host.stdins[0] == b"bob ALL=ALL\nbob ALL=(x) ALL\n"


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ("permit nopass bob", True),
        ("permit persist keepenv setenv { A=1 } bob as root cmd apt args update", True),
        ("permit nopass bobby", False),
        ("permit nopass bob\npermit nopass eve", False),
        ("bob", False),
    ],
)
def test_doas_rules_name_their_user(rule: str, good: bool) -> None:
    assert sudoers.doas_rule_names(rule, "bob") == good


def test_no_secret_in_arguments_log_or_audit(tmp_path: Path) -> None:
    secrets = ["plain-secret", "other-secret", HASH]
    case = {
        "config": {
            "users": [
                {"name": "bob", "plain_text_passwd": "plain-secret"},
                {"name": "eve", "passwd": HASH},
                {"name": "joe", "hashed_passwd": "plain-secret"},
            ],
            "chpasswd": {"list": ["root:other-secret", "nobody:R"]},
        },
        "modules": ["users_groups", "set_passwords"],
        "tree": {
            "/etc/passwd": "".join(
                f"{name}:x:{uid}:{uid}::/home/{name}:/bin/sh\n"
                for name, uid in (("root", 0), ("bob", 1), ("eve", 2), ("joe", 3), ("nobody", 4))
            )
        },
    }
    book = Book(case, tmp_path, "")
    book.run()
    assert b"bob:plain-secret\n" in book.host.stdins
    random = next(line for line in book.host.console if line.startswith("nobody:")).partition(":")[2]
    said = "\n".join(book.host.spawned)
    for path in ("/var/log/cloudboot.log", "/var/lib/cloudboot/audit.jsonl", "/run/cloudboot/status.json"):
        said += book.host.text(path) or ""
    said += "".join(str(book.status.values[key]) for key in ("errors", "recoverable"))
    assert "chpasswd" in said
    for secret in [*secrets, random]:
        assert secret not in said


def test_a_machine_that_died_before_expiring_still_expires(tmp_path: Path) -> None:
    config = {"chpasswd": {"users": [{"name": "root", "type": "text", "password": "correct horse"}]}}
    shadow = {"/etc/shadow": f"root:{HASH}:19000:0:99999:7:::\n"}
    case: dict[str, Any] = {"config": config, "tools": [{"argv": "chpasswd", "writes": shadow}]}
    book = Book(case, tmp_path, "set_passwords")

    def die(_: int, action: object) -> None:
        if "passwd --expire" in getattr(action, "text", ""):
            raise KeyboardInterrupt

    book.host.on_change = die
    with pytest.raises(KeyboardInterrupt):
        book.run()
    book.host.on_change = None
    book.changes()
    book.run()
    assert book.changes() == ["run passwd --expire root"]


def test_settings_of_sshd_end_at_match(tmp_path: Path) -> None:
    tree = {
        sshd.CONFIG: 'Port 22\nInclude a*.conf "b c.conf"\nMatch all\nBanner none\nMatch User x\nPort 23\n',
        "/etc/ssh/a1.conf": "Match User y\nPort 24\n",
        "/etc/ssh/b c.conf": "# x\nAllowUsers=one  two # three\n",
    }
    book = Book({"tree": tree}, tmp_path, "ssh")
    found = [(name, words) for name, words in sshd.settings(book.host) if name != "include"]
    assert found == [("port", ["22"]), ("allowusers", ["one", "two"]), ("match", ["all"]), ("banner", ["none"])]


@given(st.text(alphabet='PortMatchUserx =#"\n', max_size=80), st.sampled_from([[], ["yes"], ["a", "b"]]))
@settings(max_examples=200, deadline=None)
def test_editing_sshd_config_converges_and_keeps_other_lines(text: str, values: list[str]) -> None:
    once = sshd.edit(text, "PasswordAuthentication", values)
    assert sshd.edit(once, "PasswordAuthentication", values) == once
    assert [line for line in once.split("\n") if not line.startswith("PasswordAuthentication") and line] == [
        line for line in text.split("\n") if line
    ]


def test_in_an_image_tree_without_root_the_tools_are_recorded_and_files_stay(tmp_path: Path) -> None:
    config = {"users": ["default", {"name": "bob", "sudo": "ALL=(ALL) ALL", "passwd": "!"}], "password": "some thing"}
    tree = {"/bin/bash": {"content": "", "mode": 0o755}}
    modules = ["users_groups", "ssh", "set_passwords"]
    book = Book({"config": config, "tree": tree, "modules": modules}, tmp_path, "")
    book.host.live, book.root.privileged = False, False
    book.run()
    recorded = [action.text for action, _ in book.host.recorded]
    assert "run useradd -m bob" in recorded
    assert "run chpasswd" in recorded
    assert book.status.values["errors"] == []
    rules = book.host.text(sudoers.FILE)
    assert rules is not None
    assert "bob ALL=(ALL) ALL" in rules
    book.changes()
    book.run()
    assert book.changes() == []
    assert book.host.text(sudoers.FILE) == rules
