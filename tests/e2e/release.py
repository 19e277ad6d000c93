"""The chart as a release with the demo model, and pods beside it that use its images. Knows the chart's names."""

import json
from dataclasses import dataclass
from pathlib import Path

from cluster import Namespace, wait_until

CHART = Path(__file__).parents[2] / "helm" / "expertmesh"
LOAD = Path(__file__).with_name("load.py")
KILL_ENGINE = Path(__file__).with_name("kill_engine.py")
NAME = "mesh"
FULLNAME = f"{NAME}-expertmesh"
GATEWAY = f"{FULLNAME}-gateway"
GROUPS = ("e0", "e1", "e2", "e3")
GATEWAY_PODS = "app.kubernetes.io/component=gateway"
STOP = "/tmp/stop"


@dataclass(frozen=True)
class Release:
    """The release ``NAME`` in a namespace, with further values files."""

    namespace: Namespace
    values: tuple[Path, ...]

    def install(self, *settings):
        """Install or upgrade, and wait until every pod is ready."""
        files = [part for file in (CHART / "values-cpu-demo.yaml", *self.values) for part in ("--values", file)]
        chosen = [part for setting in settings for part in ("--set", setting)]
        self.namespace.helm("upgrade", "--install", NAME, CHART, *files, *chosen, "--wait", "--timeout", "280s")

    def uninstall(self):
        """Remove everything."""
        self.namespace.helm("uninstall", NAME, "--wait", "--timeout", "180s")

    def start_pod(self, name, script, *arguments, files=None):
        """Run a Python script in a pod that sees what a gateway's container sees; ``files`` lie beside it."""
        deployment = self.namespace.get("deployment", GATEWAY)
        pod = deployment["spec"]["template"]["spec"]
        container = {key: pod["containers"][0][key] for key in ("image", "imagePullPolicy", "securityContext")}
        container |= {
            "name": "script",
            "command": ["python", f"/scripts/{script.name}", *arguments],
            "env": pod["containers"][0]["env"],
            "volumeMounts": [*pod["containers"][0]["volumeMounts"], {"name": "scripts", "mountPath": "/scripts"}],
        }
        scripts = {"name": "scripts", "configMap": {"name": name}}
        self.namespace.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {script.name: script.read_text()} | (files or {}),
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": pod["securityContext"],
                    "containers": [container],
                    "volumes": [*pod["volumes"], scripts],
                },
            },
        )
        self.namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")

    def delete_pod(self, name):
        """Remove a pod of ``start_pod``."""
        self.namespace.kubectl("delete", f"pod/{name}", f"configmap/{name}", "--wait=true")

    def run_inside(self, pod, script, *arguments):
        """Run a Python script in a pod's first container; returns what it printed."""
        command = ("exec", "--stdin", pod, "--", "python", "-", *map(str, arguments))
        return self.namespace.kubectl(*command, stdin=script.read_text())

    def gateway_pod(self):
        """The pod of the only gateway, once others are gone."""
        wait_until(lambda: len(self.namespace.pods(GATEWAY_PODS)) == 1, "there is one gateway")
        [pod] = self.namespace.pods(GATEWAY_PODS)
        return pod

    def deployment(self, group):
        """The name of a group's Deployment."""
        return f"{FULLNAME}-{group}"

    def ready_replicas(self, deployment):
        """How many pods of a Deployment are ready."""
        return self.namespace.get("deployment", deployment)["status"].get("readyReplicas", 0)


class Load:
    """Requests without pause while the body runs, each made up to ``attempts`` times; ``report`` afterwards.

    See load.py. Who goes in good order must not refuse anybody, so nothing is asked twice by default.
    """

    def __init__(self, release, attempts=1, name="load"):
        self._release = release
        self._attempts = attempts
        self._name = name
        self.report = None

    def __enter__(self):
        self._release.start_pod(self._name, LOAD, f"{GATEWAY}:50051", STOP, str(self._attempts))
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if error is None:
                self.report = self._stop()
        finally:
            self._release.delete_pod(self._name)

    def _stop(self):
        namespace = self._release.namespace
        namespace.kubectl("exec", self._name, "--", "touch", STOP)
        wait_until(lambda: namespace.get("pod", self._name)["status"]["phase"] == "Succeeded", "the load has ended")
        return json.loads(namespace.logs(self._name).splitlines()[-1])
