"""A namespace of a cluster, through kubectl and helm. Knows their command lines, not the chart."""

import json
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass

TIMEOUT_SECONDS = 300


class CommandError(Exception):
    """A command failed; the text is what it wrote."""


def run(*command, stdin=None):
    """Run a command and return what it printed; CommandError when it fails."""
    done = subprocess.run(
        [*map(str, command)], input=stdin, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise CommandError(f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Namespace:
    """A namespace, and commands inside it."""

    name: str

    def kubectl(self, *arguments, stdin=None):
        """Run kubectl here."""
        return run("kubectl", "--namespace", self.name, *arguments, stdin=stdin)

    def helm(self, *arguments):
        """Run helm here."""
        return run("helm", "--namespace", self.name, *arguments)

    def get(self, *arguments):
        """Read objects."""
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def apply(self, *objects):
        """Create or change objects."""
        self.kubectl("apply", "--filename", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    def pods(self, selector):
        """The pods with these labels."""
        return self.get("pods", "--selector", selector)["items"]

    def rollout(self, deployment):
        """Wait until a Deployment is as it should be."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={TIMEOUT_SECONDS - 10}s")

    def logs(self, pod):
        """What a pod has written."""
        return self.kubectl("logs", pod)


def wait_until(condition, what, seconds=120):
    """Wait until ``condition()`` is true; a command that fails counts as false."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(CommandError):
            if condition():
                return
        time.sleep(0.5)
    raise TimeoutError(f"not within {seconds} s: {what}")
