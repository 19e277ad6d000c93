"""The suites of helm-unittest: there is one for every template, and they pass."""

import subprocess

import pytest
from chart import CHART, needs

TEMPLATES = sorted(path.stem for path in (CHART / "templates").rglob("*.yaml"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_has_a_suite(template):
    assert (CHART / "tests" / f"{template}_test.yaml").exists()


@needs("helm-unittest")
def test_the_suites_pass():
    done = subprocess.run(["helm-unittest", "--strict", str(CHART)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
