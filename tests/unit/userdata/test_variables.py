"""The variables of templates."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from casebook import ScratchHost
from cloudboot.instance import Instance
from cloudboot.root import Root
from cloudboot.userdata.template import render
from cloudboot.userdata.variables import aliased, facts, variables

INSTANCE = Instance(
    id="i-0123456789abcdef0",
    datasource="Ec2",
    platform="aws",
    hostname="ip-10-0-2-15.ec2.internal",
    public_keys=("ssh-ed25519 AAAA mine",),
    launch_index=2,
    availability_zone="eu-central-1a",
    region="eu-central-1",
)
METADATA: dict[str, Any] = {
    "version": "2024-04-11",
    "endpoint": "169.254.169.254",
    "crawled": "2026-01-01T00:00:00Z",
    "user-data": "aHVudGVyMg==",
    "meta-data": {
        "public-ipv4": "192.0.2.1",
        "public_ipv4": "its own",
        "block-device-mapping": {"ami": "xvda", "ephemeral0": "sdb"},
        "network": {
            "interfaces": {"macs": {"02:0a:0b": {"ipv4-associations": {".value": "x", "192.0.2.1": "10.0.0.1"}}}}
        },
        "public-keys": {"0": {"openssh-key": "ssh-ed25519 AAAA mine"}},
        "security-groups": "web\nssh",
        "iam": {"info": '{"Code": "Success", "a-b": 1}', "security-credentials": {"role": "hunter2"}},
        "identity-credentials": {"ec2": {"security-credentials": {"ec2-instance": "hunter2"}}},
        "user-data": "hunter2",
        "odd": "{not json",
    },
    "dynamic": {"instance-identity": {"document": '{"accountId": "123456789012", "tags": [{"a.b": 1}]}'}},
}
FACTS = {"distro": "debian", "distro_version": "13", "machine": "x86_64", "python_version": "3.13.5"}


def test_what_a_template_sees() -> None:
    found = variables(INSTANCE, METADATA, FACTS)
    assert sorted(found["v1"]) == sorted(
        "_beta_keys availability_zone cloud_id cloud_name distro distro_release distro_version instance_id kernel_release "
        "local_hostname machine platform public_ssh_keys python_version region subplatform system_platform variant "
        "availability-zone cloud-name instance-id local-hostname".split()
    )
    text = """\
{{ v1.instance_id }} {{ instance_id }} {{ v1['instance-id'] }} {{ region }} {{ v1.local_hostname }} {{ cloud_name }}
{{ v1.platform }} {{ v1.subplatform }} {{ v1.cloud_id }} {{ distro }} {{ distro_version }} {{ v1.public_ssh_keys[0] }}
{{ ds.meta_data.public_ipv4 }} {{ ds.meta_data['public-ipv4'] }} {{ ds.meta_data.block_device_mapping.ephemeral0 }}
{{ ds.meta_data.security_groups[1] }} {{ ds.meta_data.iam.info.Code }} {{ ds.meta_data.iam.info.a_b }}
{{ ds.dynamic.instance_identity.document.accountId }} {{ ds.dynamic.instance_identity.document.tags[0].a_b }}
{{ ds._metadata_api_version }} {{ ds.meta_data.network.interfaces.macs['02:0a:0b'].ipv4_associations['192.0.2.1'] }}
"""
    assert render(text, found, 10_000) == (
        """\
i-0123456789abcdef0 i-0123456789abcdef0 i-0123456789abcdef0 eu-central-1 ip-10-0-2-15 aws
ec2 metadata (http://169.254.169.254) aws debian 13 ssh-ed25519 AAAA mine
its own 192.0.2.1 sdb
ssh Success 1
123456789012 1
2024-04-11 10.0.0.1
""",
        [],
    )


def test_neither_credentials_nor_user_data() -> None:
    told = json.dumps(variables(INSTANCE, METADATA, FACTS))
    assert "hunter2" not in told
    assert "aHVudGVyMg" not in told


def test_other_clouds() -> None:
    def of(**changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = variables(INSTANCE._replace(**changes), {}, {})["v1"]
        return found

    assert of(region="cn-north-1")["cloud_id"] == "aws-china"
    assert of(region="us-gov-west-1")["cloud_id"] == "aws-gov"
    openstack = of(platform="openstack", region=None)
    assert (openstack["cloud_name"], openstack["cloud_id"], openstack["platform"]) == ("openstack", "openstack", "ec2")
    nocloud = of(datasource="NoCloud", platform="nocloud", hostname=None)
    assert (nocloud["cloud_name"], nocloud["platform"], nocloud["local_hostname"]) == ("nocloud", "nocloud", None)
    assert variables(INSTANCE, {"meta-data": "odd"}, {})["ds"] == {}


def test_aliases() -> None:
    assert aliased({"a-b": [{"c.d": 1}], "a_b": 2}) == {"a-b": [{"c.d": 1, "c_d": 1}], "a_b": 2}


def test_facts_of_a_system(tmp_path: Path) -> None:
    host = ScratchHost(Root(str(tmp_path)))
    host.write("/etc/os-release", 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n')
    found = facts(host)
    assert [found[name] for name in ("distro", "distro_version", "distro_release")] == ["debian", "13", "trixie"]
    assert found["python_version"] == platform.python_version()
    assert found["system_platform"] == platform.platform()
    assert variables(INSTANCE, {}, found)["sys_info"]["dist"] == ["debian", "13", "trixie"]
