"""Job files and snippets of docs/cohorts.md, as far as they can be checked without a cluster."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_job_of_slurm_is_a_script_of_bash():
    (script,) = [block for block in blocks("text") if block.startswith("#!")]
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    directives = re.findall(r"^#SBATCH --[a-z-]+=\S+$", script, re.MULTILINE)
    assert len(directives) == script.count("#SBATCH")
    for command in re.findall(r"dask (scheduler|worker)(.*?) &", script):
        dask = [Path(sys.executable).parent / "dask", command[0], "--help"]
        helped = subprocess.run(dask, capture_output=True, text=True, check=True)
        assert all(option in helped.stdout for option in re.findall(r"--[a-z-]+", command[1]))


def test_the_snippet_of_python_parses():
    (snippet,) = blocks("python")
    assert "SLURMCluster" in {node.id for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Name)}


def test_the_manifest_connects_workers_and_scheduler():
    (manifest,) = [yaml.safe_load(block) for block in blocks("yaml")]
    assert manifest["kind"] == "DaskCluster"
    scheduler = manifest["spec"]["scheduler"]
    (port,) = scheduler["spec"]["containers"][0]["ports"]
    (service,) = scheduler["service"]["ports"]
    assert service["targetPort"] == port["name"]
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == manifest["metadata"]["name"]
    assert f"tcp://{manifest['metadata']['name']}-scheduler:{service['port']}" in PAGE
