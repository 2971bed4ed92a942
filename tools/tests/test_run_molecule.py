"""A scenario is believed only when everything ran."""

from __future__ import annotations

import pytest
from run_molecule import judge

STEPS = ["create", "converge", "verify", "destroy"]
GOOD = """
INFO     [gateway > create] Executed: Successful
INFO     [gateway > converge] Executed: Successful
=========================== short test summary info ============================
============================== 12 passed in 0.58s ==============================
INFO     [gateway > verify] Executed: Successful
INFO     [gateway > destroy] Executed: Successful
"""


def test_everything_ran() -> None:
    """All steps, tests passed, status 0."""
    assert judge(0, GOOD, STEPS) == (12, [])


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (1, GOOD, "molecule ended with status 1"),
        (0, GOOD.replace("[gateway > converge] Executed: Successful", ""), "not executed: converge"),
        (0, GOOD.replace("[gateway > verify] Executed: Successful", "Skipping"), "not executed: verify"),
        (0, GOOD.replace("12 passed in", "no tests ran in"), "no test ran"),
        (0, GOOD.replace("12 passed", "11 passed, 1 skipped"), "1 skipped"),
        (0, GOOD.replace("12 passed", "1 failed, 11 passed"), "1 failed"),
    ],
)
def test_what_did_not_run_is_named(status: int, output: str, reason: str) -> None:
    """A missing step, missing tests and skipped tests each fail the scenario."""
    assert judge(status, output, STEPS)[1] == [reason]


def test_colours_and_the_other_form_of_the_log_are_understood() -> None:
    """Molecule writes another form to a terminal."""
    line = "\x1b[36mINFO    \x1b[0m \x1b[32mgateway\x1b[0m ➜ \x1b[33mverify\x1b[0m: \x1b[32mExecuted: Successful\x1b[0m"
    passed, problems = judge(0, f"{line}\n===== 3 passed in 1.00s =====", ["verify"])
    assert (passed, problems) == (3, [])
