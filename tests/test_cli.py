"""The `elephant` command: help, bad arguments in one line, verdicts, doctor."""

import subprocess
import sys

import pytest

from helpers import cli


def elephant(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


COMMANDS = [
    [],
    ["run"],
    ["book"],
    ["plan"],
    ["record"],
    ["claims"],
    ["audit-data"],
    ["audit-rm"],
    ["nightly"],
    ["doctor"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_command_does(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.split()) > 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--profile", "huge"], "invalid choice: 'huge'"),
        (["run", "--cores", "0"], "'0' is not a positive whole number"),
        (["run", "--executor", "moon"], "invalid choice: 'moon'"),
        (["plan", "--device", "abacus"], "invalid choice: 'abacus'"),
        (["book", "extra"], "unrecognized arguments: extra"),
        (["audit-data"], "the following arguments are required: FILE"),
        (["audit-data", "x", "--seed", "one"], "invalid int value: 'one'"),
        (["nightly", "--keep", "0"], "'0' is not a positive whole number"),
        (["nightly", "--accept"], "argument --accept: expected one argument"),
        (["nightly", "--test-alarm", "--check", "3"], "not allowed with argument"),
        (["audit-rm"], "the following arguments are required: MODEL"),
        (["audit-rm", "x", "--pairs", "0"], "'0' is not a positive whole number"),
        (["audit-rm", "x", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_arguments_get_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "--help" in line


def test_the_command_does_not_wait_for_torch():
    """Its import takes seconds, which only a command that scores should pay."""
    code = "import sys; from helpers import cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_outside_a_checkout_it_says_where_to_go(tmp_path):
    done = elephant("claims", cwd=tmp_path)
    assert done.returncode == 1
    assert "run this from inside a checkout" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_notebook_is_one_line(tmp_path):
    done = elephant("run", "99_nothing")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("elephant: no notebook '99_nothing'; there are 00_paper_audit")


def test_claims_without_a_run_lists_all_as_not_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["claims", "--scope", "paper"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 + 177 + 1
    assert all("not run" in line for line in lines)


def test_doctor_reports_what_is_here(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for what in (
        "cores",
        "memory",
        "device",
        "HH-RLHF",
        "data: toxicity",
        "bundled SmolLM2",
        "hub",
    ):
        assert what in out


def test_a_wrong_data_folder_is_an_error_not_other_data(monkeypatch, capsys):
    monkeypatch.setenv("HH_RLHF_DIR", "nowhere-at-all")
    assert cli.main(["run"]) == 1
    assert "HH_RLHF_DIR" in capsys.readouterr().err
