"""What a site opens to the world, whom its containers run as, and whether what it installs is pinned.

Ray's own code is asked what it makes of the network settings: where they leave it the choice it opens SSH to the world.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SITES = sorted(path.name for path in CLUSTER.glob("*.yaml"))
LOCKS = ["requirements.lock", *(f"cluster/{name}.lock" for name in ("image", "gcp", "azure")), ".ci/tools.lock"]
PINNED = re.compile(r".+(:v?\d[\w.-]*|@sha256:[0-9a-f]{64})")
UNSET = re.compile(r"^[A-Z]+(-[A-Z]+)+$")  # a placeholder, which no cloud takes


def faults(text: str) -> list[str]:
    """What is wrong with one of cluster's YAMLs."""
    found = [f"open to the world: {line}" for line in text.splitlines() if re.search(r"0\.0\.0\.0/0|::/0", line)]
    for doc in yaml.safe_load_all(text):
        for check in (_unpinned, _root_in_compose, _root_in_kubernetes, _networks):
            found += check(doc)
    return found


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _unpinned(doc: Any) -> Iterator[str]:
    for key, value in _walk(doc):
        if key == "image" and not PINNED.fullmatch(value):
            yield f"image {value}: no version"
        if (key == "imageVersion" and value == "latest") or (key == "sourceImage" and "/family/" in value):
            yield f"{key} {value}: whatever is newest"
        for command in value if isinstance(value, list) and key.endswith("commands") else ():
            if "pip install" in command and "--require-hashes" not in command:
                yield f"{key} installs what has no hash: {command}"


def _root_in_compose(doc: Any) -> Iterator[str]:
    for name, service in doc.get("services", {}).items():
        if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
            yield f"service {name} runs as root"
        closed = (service.get("cap_drop"), service.get("read_only"), service.get("security_opt"))
        if closed != (["ALL"], True, ["no-new-privileges:true"]):
            yield f"service {name} keeps privileges"


def _root_in_kubernetes(doc: Any) -> Iterator[str]:
    for key, pod in _walk(doc):
        if key == "spec" and "containers" in pod:
            who = pod.get("securityContext", {})
            if not who.get("runAsNonRoot") or not who.get("runAsUser"):
                yield "a pod runs as root"
            for container in pod["containers"]:
                may = container.get("securityContext", {})
                if may.get("allowPrivilegeEscalation") is not False or may.get("capabilities") != {"drop": ["ALL"]}:
                    yield f"container {container['name']} keeps privileges"


def _networks(doc: Any) -> Iterator[str]:
    """A cloud's nodes lie in a network made beforehand: what Ray would make or take has SSH open to the world."""
    kind = doc.get("provider", {}).get("type")
    for name, node in doc.get("available_node_types", {}).items():
        if kind == "aws" and not node["node_config"].get("SecurityGroupIds"):
            yield f"node {name}: Ray makes the security group"
        if kind == "gcp" and not node["node_config"].get("networkInterfaces"):
            yield f"node {name}: Ray takes the default network"
    if kind == "azure" and not {"unique_id", "subnet_mask"} <= doc["provider"].keys():
        yield "Ray names and makes the network"


@pytest.mark.parametrize("name", SITES)
def test_a_site_is_closed(name: str):
    assert faults((CLUSTER / name).read_text()) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "fault"),
    [
        ("aws.yaml", "SecurityGroupIds: [", "SubnetIds: [", "node head: Ray makes the security group"),
        ("aws.yaml", "region: us-west-2", 'IpRanges: [{CidrIp: "0.0.0.0/0"}]', "open to the world"),
        ("gcp.yaml", "networkInterfaces: *network", "minCpuPlatform: a", "node gpu: Ray takes the default network"),
        ("gcp.yaml", "images/IMAGE ", "images/family/FAMILY ", "whatever is newest"),
        ("azure.yaml", "subnet_mask:", "subnet:", "Ray names and makes the network"),
        ("azure.yaml", "imageVersion: IMAGE-VERSION", "imageVersion: latest", "whatever is newest"),
        ("azure.yaml", "--require-hashes ", "", "installs what has no hash"),
        ("kuberay.yaml", "laresa:0.1.0", "laresa:latest", "image REGISTRY/laresa:latest: no version"),
        ("kuberay.yaml", "laresa:0.1.0", "laresa", "image REGISTRY/laresa: no version"),
        ("kuberay.yaml", "runAsUser: 1000", "runAsUser: 0", "a pod runs as root"),
        ("kuberay.yaml", "              capabilities: {drop: [ALL]}\n", "", "container ray keeps privileges"),
        ("compose.yaml", "read_only: true", "read_only: false", "service mlflow keeps privileges"),
        ("compose.yaml", "postgres:17.7-bookworm", "postgres", "image postgres: no version"),
        ("compose.yaml", 'user: "$', 'user: "0:$', "service tls runs as root"),
    ],
)
def test_what_opens_a_site_is_found(name: str, right: str, wrong: str, fault: str):
    text = (CLUSTER / name).read_text()
    assert text.count(right) == 1
    assert any(fault in found for found in faults(text.replace(right, wrong)))


def test_the_image_is_pinned_and_runs_as_a_user():
    text = (CLUSTER / "Dockerfile").read_text()
    assert all(PINNED.fullmatch(base) for base in re.findall(r"^FROM (\S+)", text, re.M))
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "1000:1000"
    installs = re.findall(r"pip install [^&\n]*", text)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation ." in line for line in installs)


@pytest.mark.parametrize("site", ["aws", "azure", "gcp"])
def test_ssh_is_opened_to_a_stated_address_and_nothing_starts_until_it_is_made(site: str):
    text = (CLUSTER / f"{site}.yaml").read_text()
    opened = re.findall(r"(?:--cidr|--source-address-prefixes|--source-ranges)[ =](\S+)", text)
    assert sum(address.startswith("YOUR-ADDRESS") for address in opened) == 1
    doc = yaml.safe_load(text)
    head = doc["available_node_types"]["head"]["node_config"]
    unset = {
        "aws": lambda: head["SecurityGroupIds"][0],
        "azure": lambda: doc["provider"]["subnet_mask"],
        "gcp": lambda: head["networkInterfaces"][0]["subnetwork"].split("/")[1],
    }
    assert UNSET.match(unset[site]())


# ---------------------------------------------------------------------- what Ray makes of it


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries of Google and Azure, which no test environment has, are stand-ins."""
    for name in (
        *("googleapiclient", "googleapiclient.discovery", "googleapiclient.errors", "google.oauth2", "google.auth"),
        *("google.oauth2.service_account", "google.oauth2.credentials", "google_auth_httplib2", "httplib2"),
        *("azure", "azure.common", "azure.common.credentials", "azure.core", "azure.core.exceptions", "azure.identity"),
        *("azure.mgmt", "azure.mgmt.resource", "azure.mgmt.resource.resources", "azure.mgmt.resource.resources.models"),
    ):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for name in [name for name in sys.modules if re.match(r"ray\.autoscaler\._private\.(gcp|_azure)\b", name)]:
        monkeypatch.delitem(sys.modules, name)


def load(site: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{site}.yaml").read_text())


def test_ray_makes_no_security_group(monkeypatch: pytest.MonkeyPatch):
    aws = importlib.import_module("ray.autoscaler._private.aws.config")
    monkeypatch.setattr(aws, "_upsert_security_groups", lambda *arguments: pytest.fail("Ray makes a group"))
    config = aws._configure_security_group(load("aws"))
    groups = [node["node_config"]["SecurityGroupIds"] for node in config["available_node_types"].values()]
    assert groups == [["SECURITY-GROUP-ID"]] * 2


@pytest.mark.usefixtures("clouds")
def test_ray_takes_no_other_network():
    gcp = importlib.import_module("ray.autoscaler._private.gcp.config")
    compute = MagicMock()
    assert gcp._configure_subnet(load("gcp"), compute) == load("gcp")
    assert compute.mock_calls == []


@pytest.mark.usefixtures("clouds")
def test_ray_keeps_the_rules_of_the_network_it_finds(monkeypatch: pytest.MonkeyPatch):
    azure = importlib.import_module("ray.autoscaler._private._azure.config")
    text = (CLUSTER / "azure.yaml").read_text()
    (made,) = re.findall(r"vnet create -g laresa -n (\S+) --address-prefixes (\S+)", text)
    ours = {"addressPrefix": made[1], "networkSecurityGroup": {"id": "laresa-closed"}}
    client = MagicMock()
    asked: list[str] = []

    def listed(group: str, wanted: str) -> list[SimpleNamespace]:
        asked.append(re.search(r"substringof\('(.*?)'", wanted).group(1))
        return [SimpleNamespace(id="vnet")] if asked[-1] in made[0] else []

    client.resources.list_by_resource_group = listed
    client.resources.get_by_id = lambda *_: SimpleNamespace(properties={"subnets": [{"properties": ours}]})
    monkeypatch.setattr(azure, "ResourceManagementClient", lambda *_: client)
    monkeypatch.setattr(azure, "_wait_for_role_assignment_deletion", lambda *_: True)
    monkeypatch.setattr(azure, "ResourceNotFoundError", LookupError)
    monkeypatch.setattr(azure, "_delete_role_assignments_for_principal", lambda *_: None)
    azure._configure_resource_group(load("azure"))
    properties = client.deployments.create_or_update.call_args.kwargs["parameters"]["properties"]
    (vnet,) = (r for r in properties["template"]["resources"] if r["type"] == "Microsoft.Network/virtualNetworks")
    assert vnet["properties"]["subnets"][0]["properties"] == ours
    names = properties["template"]["variables"]
    cluster = properties["parameters"]["clusterId"]["value"]
    assert names["vnetName"] == "[concat('ray-', parameters('clusterId'), '-vnet')]"
    assert made[0] == f"ray-{cluster}-vnet"
    assert f"--subnet-name ray-{cluster}-subnet --subnet-prefixes {made[1]}" in text
    assert f"--lock-type CanNotDelete \\\n#     --resource {made[0]} " in text  # `ray down` would delete it


# ---------------------------------------------------------------------- the lock files


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_once_with_hashes(name: str):
    text = (ROOT / name).read_text()
    packages = re.split(r"\n(?=\S)", text.strip())
    form = re.compile(r"([\w.-]+)==\S+( ; [^\n]*?)?( \\\n    --hash=sha256:[0-9a-f]{64})+")
    pinned = [form.fullmatch(entry) for entry in packages]
    assert [entry for entry, match in zip(packages, pinned, strict=True) if match is None] == []
    names = [match.group(1).lower().replace("_", "-") for match in pinned if match]
    assert len(names) == len(set(names)) >= 20
    assert "://" not in text


def test_both_installers_check_the_hashes():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^CHECKED := --require-hashes", makefile, re.M)
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert all("$(CHECKED)" in line or "--no-deps --no-build-isolation -e ." in line for line in installs)
    assert "--require-hashes" in (CLUSTER / "node.sh").read_text()
    assert "--require-hashes" in (ROOT / ".ci" / "run").read_text()
