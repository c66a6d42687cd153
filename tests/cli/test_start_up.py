"""The command line starts without torch, lists its commands without loading them, and exits as documented."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from patchmorph.cli import app
from patchmorph.cli.commands import COMMANDS, load_command
from patchmorph.version import VERSION


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    names = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=names | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "code",
    ["import patchmorph", "from patchmorph.cli import main; sys.argv[1:] = ['--help']; run(main)"],
    ids=["import", "help"],
)
def test_torch_is_not_loaded_before_it_is_used(code):
    head = "import sys\ndef run(f):\n    try: f()\n    except SystemExit: pass\n"
    heavy = "torch scipy nibabel SimpleITK PIL"
    loaded = python(f"{head}{code}\nprint('loaded:', [n for n in '{heavy}'.split() if n in sys.modules])")
    assert loaded.rstrip().endswith("loaded: []")


def test_public_names_are_loaded_when_used():
    assert python("import patchmorph; print(patchmorph.Grid.__module__)").strip() == "patchmorph.spatial.grid"
    assert "register" in python("import patchmorph; print(dir(patchmorph))")


def test_waiting_threads_give_their_core_away_unless_the_user_chose_otherwise():
    code = "import os, patchmorph; print(os.environ['OMP_WAIT_POLICY'])"
    assert python(code).strip() == "PASSIVE"
    assert python(code, OMP_WAIT_POLICY="ACTIVE").strip() == "ACTIVE"


def test_what_a_command_loads_is_left_out_of_the_search_for_garbage():
    """Which goes on for what comes later."""
    code = (
        "import gc, sys; from patchmorph.cli import app; sys.argv[1:] = ['models']\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000, 'torch' in sys.modules)"
    )
    assert python(code).splitlines()[-1] == "True True True"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_each_command_what_its_own_help_begins_with(name):
    summary = COMMANDS[name].summary
    assert summary.endswith(".")
    assert load_command(name).help.replace("\n", " ").startswith(summary[:-1])


def test_commands_share_options_once():
    for _ in range(2):  # a command that is loaded again has them once
        names = [parameter.name for parameter in load_command("models").params]
        assert [names.count(name) for name in ("threads", "verbose", "quiet")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("typed", "found"), [("app", "apply\napply-points\n"), ("models --thr", "--threads\n")]
)
def test_a_shell_completes_commands_and_options_and_sees_nothing_else(typed, found):
    words = f"patchmorph {typed}"
    names = {
        "_PATCHMORPH_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    code = "from patchmorph.cli import main; import sys; sys.argv[0] = 'patchmorph'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | names, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (found, "")


def test_threads_are_limited():
    code = (
        "import sys, torch; from patchmorph.cli import app\n"
        "sys.argv = ['patchmorph', 'models', '--threads', '1']\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(torch.get_num_threads())"
    )
    assert python(code).split()[-1] == "1"


def test_the_version_is_printed():
    for arguments in ([sys.executable, "-m", "patchmorph", "--version"],):
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout == f"patchmorph {VERSION}\n"


def test_help_shows_brackets_defaults_and_exit_codes():
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    assert "Exit codes: 0 done" in runner.invoke(app, ["--help"]).output
    text = " ".join(runner.invoke(app, ["register", "--help"]).output.split())
    assert "[default: auto]" in text
    assert "[default: one for each core]" in text


@pytest.mark.parametrize("arguments", [["nonsense"], ["models", "--threads", "0"], ["models", "--thread"]])
def test_a_wrong_command_or_option_exits_with_status_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


INTERRUPT = """
import os, signal, sys, time

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # in the import

sys.meta_path.insert(0, Interrupt())
from patchmorph.__main__ import main
sys.argv.insert(1, "models")
main()
"""


@pytest.mark.parametrize("module", ["typer", "torch", "patchmorph.catalogue"])
def test_an_interrupt_while_libraries_are_loaded_ends_the_command_without_a_word(module):
    done = subprocess.run([sys.executable, "-c", INTERRUPT, module], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
