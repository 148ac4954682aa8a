"""The metadata tree that the simulator serves: an EC2 instance, or one of a private cloud (UEC). Values only."""

from __future__ import annotations

import base64
import json

from cloudboot.typed import Any, NamedTuple

MARKER = "SIMULATED-SECRET-never-to-be-crawled"
"""Stands in every credential of the tree, so that a test can look for a leak."""

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFVu8XjPRqgWbLrZkB8pHV2xqJ8u0Lc2eJ1m5fXyZk3A example"
_NEWER = ("2021-03-23", "2020-10-27", "2018-09-24", "2016-09-02")
EC2_VERSIONS = (*reversed(_NEWER), "2009-04-04", "latest")
UEC_VERSIONS = ("1.0", "2008-09-01", "2009-04-04", "latest")


class Machine(NamedTuple):
    """What differs from instance to instance."""

    instance_id: str = "i-0123456789abcdef0"
    launch_index: int = 0
    hostname: str = ""
    ssh_keys: tuple[str, ...] = (KEY,)
    uec: bool = False


def build(machine: Machine) -> dict[str, Any]:
    """Return the tree of a machine: `{"meta-data": {…}, "dynamic": {…}}`, directories as dicts, values as text."""
    return _uec(machine) if machine.uec else _ec2(machine)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one tree over another: directories are merged, values replaced, null removes."""
    merged = dict(base)
    for name, value in over.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = merge({}, value) if isinstance(value, dict) else value
    return merged


def as_of(version: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree as an older API version shows it (categories appeared over the years)."""
    if version in ("latest", "2021-03-23"):
        return tree
    gone = {"tags": None, "events": None, "hibernation": None, "system": None, "identity-credentials": None}
    old = merge(tree, {"meta-data": {**gone, "instance-life-cycle": None}})
    if version == "2009-04-04":
        later = ("network", "services", "metrics", "iam", "mac", "profile")
        old = merge(
            old, {"meta-data": {**dict.fromkeys(later), "placement": {"region": None, "availability-zone-id": None}}}
        )
        old = merge(old, {"dynamic": None})
    return {name: value for name, value in old.items() if value}


def _public_keys(keys: tuple[str, ...]) -> dict[str, Any]:
    """Map `0=name` to the key: the listing shows the whole name, the path only the number."""
    return {f"{index}={_key_name(key, index)}": {"openssh-key": key} for index, key in enumerate(keys)}


def _key_name(key: str, index: int) -> str:
    words = key.split()
    return words[2].replace("/", "-") if len(words) > 2 else f"key{index}"


def _ec2(machine: Machine) -> dict[str, Any]:
    last = 10 + machine.launch_index % 200
    private, public = f"172.31.16.{last}", f"203.0.113.{last}"
    hostname = machine.hostname or f"ip-{private.replace('.', '-')}.eu-central-1.compute.internal"
    public_name = f"ec2-{public.replace('.', '-')}.eu-central-1.compute.amazonaws.com"
    macs = [f"02:0a:0b:0c:{nic:02x}:{last:02x}" for nic in (0, 1)]
    document = {
        "accountId": "123456789012",
        "architecture": "x86_64",
        "availabilityZone": "eu-central-1a",
        "billingProducts": None,
        "devpayProductCodes": None,
        "imageId": "ami-0abcdef1234567890",
        "instanceId": machine.instance_id,
        "instanceType": "m5d.large",
        "kernelId": None,
        "marketplaceProductCodes": None,
        "pendingTime": "2024-05-01T10:20:30Z",
        "privateIp": private,
        "ramdiskId": None,
        "region": "eu-central-1",
        "version": "2017-09-30",
    }
    signature = base64.encodebytes(b"simulated signature, proves nothing " * 5).decode().strip()
    credentials = {
        "Code": "Success",
        "LastUpdated": "2024-05-01T10:21:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAEXAMPLEEXAMPLE00",
        "SecretAccessKey": MARKER,
        "Token": MARKER,
        "Expiration": "2034-05-01T16:21:00Z",
    }
    secret = json.dumps(credentials, indent=2)
    return {
        "meta-data": {
            "ami-id": document["imageId"],
            "ami-launch-index": str(machine.launch_index),
            "ami-manifest-path": "(unknown)",
            "block-device-mapping": {"ami": "xvda", "ebs1": "sdf", "ephemeral0": "sdb", "root": "/dev/xvda"},
            "events": {"maintenance": {"history": "[]", "scheduled": "[]"}},
            "hibernation": {"configured": "false"},
            "hostname": hostname,
            "iam": {
                "info": json.dumps(
                    {
                        "Code": "Success",
                        "LastUpdated": "2024-05-01T10:21:00Z",
                        "InstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/example-role",
                        "InstanceProfileId": "AIPAEXAMPLEEXAMPLE000",
                    },
                    indent=2,
                ),
                "security-credentials": {"example-role": secret},
            },
            "identity-credentials": {
                "ec2": {
                    "info": json.dumps({"Code": "Success", "AccountId": "123456789012"}),
                    "security-credentials": {"ec2-instance": secret},
                }
            },
            "instance-action": "none",
            "instance-id": machine.instance_id,
            "instance-life-cycle": "on-demand",
            "instance-type": document["instanceType"],
            "local-hostname": hostname,
            "local-ipv4": private,
            "mac": macs[0],
            "metrics": {"vhostmd": '<?xml version="1.0" encoding="UTF-8"?>'},
            "network": {
                "interfaces": {
                    "macs": {mac: _nic(nic, mac, hostname, last, public_name) for nic, mac in enumerate(macs)}
                }
            },
            "placement": {
                "availability-zone": "eu-central-1a",
                "availability-zone-id": "euc1-az2",
                "region": "eu-central-1",
            },
            "profile": "default-hvm",
            "public-hostname": public_name,
            "public-ipv4": public,
            "public-keys": _public_keys(machine.ssh_keys),
            "reservation-id": "r-0fedcba9876543210",
            "security-groups": "default\nweb",
            "services": {"domain": "amazonaws.com", "partition": "aws"},
            "system": "nitro",
            "tags": {"instance": {"Name": "example", "role": "web"}},
        },
        "dynamic": {
            "fws": {"instance-monitoring": "disabled"},
            "instance-identity": {
                "document": json.dumps(document, indent=2),
                "pkcs7": signature,
                "rsa2048": signature,
                "signature": signature,
            },
        },
    }


def _nic(nic: int, mac: str, hostname: str, last: int, public_name: str) -> dict[str, Any]:
    block = f"172.31.{16 * (nic + 1)}.0/20"
    address = f"172.31.{16 * (nic + 1)}.{last}"
    block6 = f"2001:db8:0:{nic}::/64"
    address6 = f"2001:db8:0:{nic}::{last:x}"
    public = f"203.0.113.{last}"
    values: dict[str, Any] = {
        "device-number": str(nic),
        "interface-id": f"eni-0{nic}23456789abcdef0",
        "ipv6s": address6,
        "local-hostname": hostname,
        "local-ipv4s": address if nic == 0 else f"{address}\n172.31.32.{(last + 1) % 256}",
        "mac": mac,
        "network-card-index": "0",
        "owner-id": "123456789012",
        "security-group-ids": "sg-0123456789abcdef0\nsg-0fedcba9876543210",
        "security-groups": "default\nweb",
        "subnet-id": f"subnet-0{nic}23456789abcdef0",
        "subnet-ipv4-cidr-block": block,
        "subnet-ipv6-cidr-blocks": block6,
        "vpc-id": "vpc-0123456789abcdef0",
        "vpc-ipv4-cidr-block": "172.31.0.0/16",
        "vpc-ipv4-cidr-blocks": "172.31.0.0/16",
        "vpc-ipv6-cidr-blocks": "2001:db8::/56",
    }
    if nic == 0:
        values |= {
            "ipv4-associations": {public: address},
            "public-hostname": public_name,
            "public-ipv4s": public,
        }
    return values


def _uec(machine: Machine) -> dict[str, Any]:
    """Eucalyptus: no dynamic, `ephemeral` without a number, sd names for what the kernel calls vd."""
    last = 10 + machine.launch_index % 200
    private = f"10.0.0.{last}"
    hostname = machine.hostname or f"euca-{private.replace('.', '-')}.eucalyptus.internal"
    return {
        "meta-data": {
            "ami-id": "emi-1a2b3c4d",
            "ami-launch-index": str(machine.launch_index),
            "ami-manifest-path": "images/example.img.manifest.xml",
            "block-device-mapping": {"ami": "sda1", "emi": "sda1", "ephemeral": "sdb", "root": "/dev/sda1"},
            "hostname": hostname,
            "instance-id": machine.instance_id,
            "instance-type": "m1.large",
            "kernel-id": "eki-1a2b3c4d",
            "local-hostname": hostname,
            "local-ipv4": private,
            "placement": {"availability-zone": "cluster01"},
            "public-hostname": hostname,
            "public-ipv4": private,
            "public-keys": _public_keys(machine.ssh_keys),
            "ramdisk-id": "eri-1a2b3c4d",
            "reservation-id": "r-1a2b3c4d",
            "security-groups": "default",
        }
    }
