"""The commands that errors print, run as they are: from another folder, where paths have spaces and two `results`.

The study has seeds and steps of its own, which the commands have to repeat.
"""

import os
import shutil
import subprocess

import pytest
from workspace import copy_project

pytestmark = pytest.mark.workflow
STUDY = ("--scale", "miniature", "--seeds", "5", "--steps", "4", "--methods", "od")
TRAIN = ("train", *STUDY, "--method", "od")
EVALUATE = ("evaluate", *STUDY, "--method", "od")
TABLES = ("tables", *STUDY)


class Project:
    """A project with a finished study; commands run in the folder `elsewhere`."""

    def __init__(self, folder):
        self.workspace = copy_project(folder / "results" / "a b")
        self.root = self.workspace.root
        self.elsewhere = folder / "else where"
        self.elsewhere.mkdir()

    def run(self, *words, cwd=None):
        environment = self.workspace.environment() | {"PYTHONPATH": str(self.root)}
        return subprocess.run(
            words, cwd=cwd or self.elsewhere, env=environment, text=True, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def said(self, results, words):
        """The errors of a `dynclip` command that works on the folder `results`."""
        done = self.run("dynclip", *words, "--results", str(results))
        return [line for line in done.stdout.splitlines() if line.startswith("dynclip: ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("remedies"))
    scores = [f"results/miniature/scores/{name}/final/facts.json" for name in ("od/seed5", "base/seed5")]
    config = ("scale=miniature", "seeds=5", "steps=4", "methods=od")
    tables = "results/miniature/tables/main.md"
    done = made.run("snakemake", "--cores", "all", "--config", *config, "--", *scores, tables, cwd=made.root)
    assert done.returncode == 0, done.stdout[-3000:]
    assert not made.said(made.root / "results", TABLES)
    return made


def flipped(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


CASES = [
    ("data/manifest.json", os.remove, TRAIN),
    ("base/seed5/model.safetensors", flipped, TRAIN),
    ("runs/od/seed5/checkpoints/step4/model.safetensors", flipped, EVALUATE),
    ("runs/od/seed5/metrics.jsonl", cut, TABLES),
    ("scores/od/seed5/final/facts.json", cut, TABLES),
    ("scores/base/seed5/final/facts.json", cut, TABLES),
    ("samples/od/seed5/final/facts.parquet", os.remove, TABLES),
]


def check_remedy(project, results, name, harm, words, begins):
    harm(results / "miniature" / name)
    (error,) = project.said(results, words)
    command = error.rpartition(": ")[2]
    assert command.startswith(begins), error
    done = project.run("bash", "-c", command)
    assert done.returncode == 0, f"{error}\n{done.stdout[-3000:]}"
    assert not project.said(results, words), command


@pytest.mark.parametrize(("name", "harm", "words"), CASES)
def test_the_printed_command_mends_a_file_of_a_project(name, harm, words, project):
    begins = f"cd '{project.root}' && snakemake --cores all --config scale=miniature "
    check_remedy(project, project.root / "results", name, harm, words, begins)


@pytest.mark.parametrize(("name", "harm", "words"), CASES[1::2])
def test_the_printed_command_mends_a_file_of_results_elsewhere(name, harm, words, project, tmp_path):
    """A folder that no workflow wrote: `dynclip` makes the file."""
    shutil.copytree(project.root / "results", results := tmp_path / "own results")
    check_remedy(project, results, name, harm, words, "dynclip ")
