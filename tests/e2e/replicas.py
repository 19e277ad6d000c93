"""What autoscalers decide: the desired replicas of Deployments, change by change. Knows kubectl, not the chart."""

import subprocess
import threading
import time
from itertools import pairwise


class DesiredReplicas:
    """Watches the Deployments of a namespace while the body runs."""

    def __init__(self, namespace):
        self._command = [
            *("kubectl", "--namespace", namespace.name, "get", "deployments", "--watch", "--output"),
            r'jsonpath={.metadata.name}{" "}{.spec.replicas}{"\n"}',
        ]
        self._changes = {}

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._process.terminate()
        self._reader.join()
        self._process.stdout.close()
        self._process.wait()

    def of(self, deployment):
        """The numbers that were asked for, one after the other."""
        return [replicas for _, replicas in self._changes.get(deployment, [])]

    def changed_at(self, deployment):
        """When the number changed first, by the monotonic clock; None when it has not."""
        changes = self._changes.get(deployment, [])
        return changes[1][0] if len(changes) > 1 else None

    def _read(self):
        for line in self._process.stdout:
            name, replicas = line.split()
            changes = self._changes.setdefault(name, [])
            if not changes or changes[-1][1] != int(replicas):
                changes.append((time.monotonic(), int(replicas)))


def turns(numbers):
    """How often a sequence changes its direction: [1, 2, 3, 1] once."""
    directions = [after > before for before, after in pairwise(numbers)]
    return sum(before != after for before, after in pairwise(directions))
