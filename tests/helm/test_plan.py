"""What `expertmesh plan --values` writes is what the chart takes."""

from chart import CHART, KUBE_VERSION, RENDERS, helm, needs, objects
from typer.testing import CliRunner

from expertmesh.cli.main import app


@needs("helm")
def test_a_plan_can_be_installed(tmp_path):
    model, values = CHART.parents[1] / "examples" / "tiny-mixtral" / "awq", tmp_path / "plan.json"
    flags = ["--gpu", "l4=4@0.8", "--gpu", "t4=3@0.35", "--loads", "8,4,1,1,1,1,1,1", "--values", str(values)]
    assert CliRunner().invoke(app, ["plan", str(model), *flags]).exit_code == 0
    files = [part for file in (RENDERS["default"], values) for part in ("--values", file)]
    rendered = helm("template", "mesh", CHART, "--kube-version", KUBE_VERSION, *files).stdout
    experts = [d for d in objects(rendered) if d["kind"] == "Deployment" and "gateway" not in d["metadata"]["name"]]
    assert experts
    for deployment in experts:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["nodeSelector"].keys() == {"expertmesh.dev/gpu"}
        assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
