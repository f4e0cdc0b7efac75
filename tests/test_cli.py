"""Promises of the command line: exit codes, streams, and messages that end the search for what is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli, Python, Ran, Write
    from tests.loopback_hub import LoopbackHub

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "numpy", "matplotlib")


def test_no_command_shows_the_commands(cli: Cli) -> None:
    """Without a command all commands are listed, and the exit code says that none was given."""
    done = cli()
    assert done.returncode == 2
    shown = done.stdout + done.stderr
    for command in ("run", "validate", "plan", "inspect", "push", "report", "list", "schema", "cache"):
        assert f" {command} " in shown


def test_version(cli: Cli) -> None:
    """The version is that of the installed distribution."""
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"{metadata.version('hfcompress')}\n")


def test_unknown_option_is_a_usage_error(cli: Cli) -> None:
    """A mistyped option is exit code 2 and says its name."""
    done = cli("run", "recipe.yaml", "--no-psuh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--no-psuh" in done.stderr


# validate


def test_validate_says_ok(cli: Cli, quickstart_folder: Path) -> None:
    """Good recipes are listed on standard output, exit code 0."""
    files = [quickstart_folder / "recipe.yaml", quickstart_folder / "static.yaml"]
    done = cli("validate", *files)
    assert (done.returncode, done.stdout, done.stderr) == (0, "".join(f"{file}: ok\n" for file in files), "")


def test_validate_tells_all_mistakes_of_all_files(cli: Cli, write: Write, tmp_path: Path) -> None:
    """Every mistake of every file comes in one go, placed; what is right is said too; exit code 2."""
    good, bad = write("good.yaml"), write("bad.yaml", seed=-1, evaluate=[], version=2)
    done = cli("validate", good.name, bad.name, "missing.yaml", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "good.yaml: ok\n")
    assert done.stderr.splitlines() == [
        "bad.yaml:1:1: version: got 2, expected 1",
        "bad.yaml:24:1: seed: got -1, expected an integer in [0, 4294967296)",
        "missing.yaml: no such file",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "recipe.yaml:1:1: the file is empty, expected a recipe\n"),
        ("just words\n", "recipe.yaml:1:1: got text, expected a mapping with the keys version, model, steps"),
        ("version: 1\nversion: 1\nmodel: {id: a/b}\nsteps: [{use: round-weights}]\n", "recipe.yaml:2:1: version: "),
        ("a: [1\nb: 2\n", "recipe.yaml:2:2: not YAML: did not find expected ',' or ']'\n"),
        ("version: 1\nmodel: {id: a/b}\nsteps: [{use: prunee}]\n", "recipe.yaml:3:10: steps[0].use: there is no step"),
    ],
    ids=["empty", "no mapping", "duplicate key", "no YAML", "unknown step"],
)
@pytest.mark.parametrize("command", ["validate", "run", "plan"])
def test_text_that_is_no_recipe(command: str, text: str, expected: str, cli: Cli, tmp_path: Path) -> None:
    """Whatever command reads it, a broken recipe is one placed line, exit code 2, and nothing is left behind."""
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    done = cli(command, "recipe.yaml", cwd=tmp_path)

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(expected)
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_step_that_cannot_follow(cli: Cli, write: Write) -> None:
    """A chain in which a step cannot take what the one before gives is refused before anything runs."""
    steps = [
        {"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"},
        {"use": "prune", "towers": {"all": {"ffn": 0.5}}},
    ]
    file = write(steps=steps)
    done = cli("validate", file)
    assert done.returncode == 2
    expected = "steps[1]: 'prune' takes transformers, but 'quantize' (steps[0]) gives onnx\n"
    assert done.stderr == f"{file}:15:3: {expected}"


@pytest.mark.parametrize("command", [("validate", "recipe.yaml"), ("list",), ("list", "--json"), ("schema",)])
def test_light_commands_import_nothing_heavy(command: tuple[str, ...], python: Python, write: Write) -> None:
    """`validate`, `list` and `schema` answer without torch, transformers or anything else that takes a second."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['hfcompress', *{command!r}]\n"
        "from hfcompress.cli import main\nmain()\n"
    )
    done = python("-c", code, cwd=write().parent)
    assert (done.returncode, done.stderr) == (0, "[]\n")


# list and schema


def test_list_shows_steps_of_other_packages(cli: Cli) -> None:
    """A step that an entry point of another distribution provides stands beside our own, with its provider."""
    listed = json.loads(cli("list", "--json").stdout)
    assert listed["step"]["round-weights"] == "hfcompress_example_step:RoundWeights"
    assert {"prune", "quantize"} <= listed["step"].keys()
    assert {"step", "quantizer", "importance", "task", "runtime"} <= listed.keys()
    assert "round-weights" in cli("list").stdout


def test_schema_is_json_alone(cli: Cli) -> None:
    """`schema` prints JSON Schema and nothing else."""
    done = cli("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["$defs"]["StepSpec"]["oneOf"]


# plan and inspect


def test_plan_tells_the_changes_without_weights(cli: Cli, write: Write, clip: Path, tmp_path: Path) -> None:
    """`plan` reads configurations alone: it works in a folder that holds no weights, and predicts sizes."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_bytes((clip / "config.json").read_bytes())
    done = cli("plan", write(model={"id": "bare"}), "--json")
    source, pruned = json.loads(done.stdout)["steps"]

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["memory_bytes"] > source["size_bytes"]
    assert (source["parameters"], source["size_bytes"], source["changes"]) == (973489, 3893956, [])
    assert pruned["parameters"] < source["parameters"]
    assert "text: 256 → 128 feed-forward units in 3 layers" in pruned["changes"]


def test_inspect_shows_towers_and_runtimes(cli: Cli, clip: Path) -> None:
    """`inspect` names the towers with what can be pruned, and the runtimes, on a terminal of 100 columns."""
    done = cli("inspect", clip, COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("CLIPModel", "973,489", "vision", "text", "torch", "onnxruntime", "texts of 64 tokens"):
        assert word in done.stdout
    for words in (
        "ffn     896 x 3  multiple of 8",
        "text_config.intermediate_size: 256 → 128",
        "with import hfcompress  recorded beside the configuration",
        "vision_config.num_hidden_layers: 3 → 2",
    ):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_inspect_as_json(cli: Cli, clip: Path) -> None:
    """`--json` has every axis of every tower with sizes, granularity, and what it takes to load afterwards."""
    shown = json.loads(cli("inspect", clip, "--json").stdout)
    text, vision = shown["towers"]
    assert shown["flops"] > vision["flops"] > 0
    assert (text["name"], vision["name"], shown["flop_tokens"]) == ("text", "vision", 64)
    axes = {axis["name"]: axis for axis in vision["axes"]}
    assert {name: axis["verdict"] for name, axis in axes.items()} == {
        "ffn": "stock",
        "heads": "with import hfcompress",
        "layers": "stock",
        "width": "stock",
    }
    assert axes["ffn"]["config_keys"] == ["vision_config.intermediate_size"]
    assert (axes["ffn"]["sizes"], axes["heads"]["granularity"], axes["layers"]["sizes"]) == ([896] * 3, "head", [3])


def test_inspect_of_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    """A folder without a configuration is one sentence."""
    done = cli("inspect", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{tmp_path} holds no config.json, so it is not a checkpoint; give a folder that `save_pretrained` wrote\n"
    )


# run


def test_foreign_output_is_untouched(cli: Cli, write: Write, tmp_path: Path) -> None:
    """`-o` refuses a folder that is not an artifact of ours, with exit code 2, and leaves every byte of it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.json").write_text("{}", encoding="utf-8")
    done = cli("run", write(), "-o", tmp_path / "mine")

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / 'mine'} already exists and is not an artifact of hfcompress" in done.stderr
    assert [file.read_text(encoding="utf-8") for file in (tmp_path / "mine").iterdir()] == ["{}"]


def test_output_of_ours_is_replaced(pruned: Ran, cli: Cli, write: Write, hub: LoopbackHub) -> None:
    """`-o` replaces an artifact of ours as a whole, `--set` changes the recipe as it ran, `--no-push` asks no Hub."""
    folder = shutil.copytree(pruned.folder, write().parent / "out")
    (folder / "stale.txt").write_text("from before", encoding="utf-8")
    steps = [{"use": "round-weights", "bits": 9}]
    recipe = write(steps=steps, push={"repo": "alice/never"})
    done = cli("run", recipe, "-o", folder, "--set", "steps.0.bits=3", "--json", "--no-push")
    report = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert not (folder / "stale.txt").exists()
    assert report["recipe"]["text"] == (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert report["steps"][0]["detail"] == {"rounded": 973489, "bits": 3}  # a third party's step, run like one of ours
    assert hub.requests == []


def test_run_that_fails(cli: Cli, write: Write, clip: Path, tmp_path: Path) -> None:
    """A run that fails is one sentence without a traceback, exit code 1, and nothing is left."""
    broken = shutil.copytree(clip, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["logit_scale"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    done = cli("run", write(model={"id": str(broken)}), "-o", tmp_path / "out")

    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"the weights in {broken} are incomplete: 1 tensors are missing or misshapen, logit_scale first" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "recipe.yaml"]


@pytest.mark.parametrize("debug", ["0", "1"])
def test_traceback_only_when_asked(debug: str, cli: Cli, tmp_path: Path) -> None:
    """HFCOMPRESS_DEBUG=1 shows where an error comes from, above its message."""
    done = cli("validate", "missing.yaml", cwd=tmp_path, HFCOMPRESS_DEBUG=debug)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "missing.yaml: no such file")
    assert ("Traceback" in done.stderr) == (debug == "1")


def test_push_of_no_artifact(cli: Cli, tmp_path: Path) -> None:
    """`push` takes an artifact of ours and nothing else."""
    done = cli("push", tmp_path, "alice/x")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"is {tmp_path} an artifact of hfcompress?" in done.stderr


def test_report_prints_again_what_the_run_printed(pruned: Ran, cli: Cli) -> None:
    """`report --json` is what `run --json` printed, byte for byte; without it the table comes."""
    done = cli("report", pruned.folder, "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, pruned.stdout, "")
    assert "size on disk" in cli("report", pruned.folder, COLUMNS="120").stdout


def test_report_as_a_page(pruned: Ran, cli: Cli, tmp_path: Path) -> None:
    """`--html` writes one page from the report alone: what else lay in the folder is not needed."""
    (tmp_path / "report.json").write_bytes((pruned.folder / "report.json").read_bytes())
    done = cli("report", tmp_path, "--html", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, f"The page is {tmp_path / 'page.html'}\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "report.json"]
    assert "<h2>Size and speed</h2>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_report_that_cannot_be(pruned: Ran, cli: Cli, tmp_path: Path) -> None:
    """A folder that is no artifact, and a page that cannot be written, are one sentence and exit code 2."""
    done = cli("report", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"is {tmp_path} an artifact of hfcompress?" in done.stderr
    done = cli("report", pruned.folder, "--html", tmp_path / "absent/page.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path / 'absent/page.html'} cannot be written: No such file or directory\n"


def test_terminal_shows_progress(write: Write, recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """On a terminal the display is live: stages are ticked off, what is counted has a bar, and the table ends it."""
    file = write(evaluate=[{**recipe()["evaluate"][0], "batch_size": 4}])
    command = [sys.executable, "-m", "hfcompress", "run", str(file), "-o", str(tmp_path / "out")]
    chunks: list[bytes] = []

    def record(descriptor: int) -> bytes:
        chunks.append(os.read(descriptor, 4096))
        return chunks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        status = pty.spawn(command, record)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())

    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert re.search(r"✓.*evaluate the source", shown)
    assert re.search(r"batches of 4 images \d:\d\d:\d\d [━╸╺]+ +\d+/15 [\d-]:[\d-]", shown)
    assert "size on disk" in shown.rpartition("report")[2]
