"""CI tests what meta/runtime.yml promises."""

from __future__ import annotations

import pytest
import yaml
from _console import ROOT, Failure
from ci_matrix import PYTHONS, matrix

LOCK = """\
ansible-core==2.19.14 ; python_full_version < '3.12' \\
    --hash=sha256:0
ansible-core==2.21.5 ; python_full_version >= '3.12' \\
"""


def test_each_python_gets_the_release_of_the_lock() -> None:
    """Markers of the lock decide which release belongs to which Python."""
    pairs = {pair["python"]: pair["ansible_core"] for pair in matrix(LOCK, 'requires_ansible: ">=2.19.0"')}
    assert pairs == {"3.11": "2.19.14", "3.12": "2.21.5", "3.13": "2.21.5"}


def test_what_the_collection_does_not_admit_is_not_tested_and_said() -> None:
    """A floor without a Python that tests it is an error, not a smaller matrix."""
    with pytest.raises(Failure, match="oldest ansible-core"):
        matrix(LOCK, "requires_ansible: '>=2.20.0'")


def test_gitlab_runs_the_same_pythons() -> None:
    """GitLab cannot compute its matrix; so it is compared."""
    content = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    assert content["code"]["parallel"]["matrix"][0]["PYTHON_VERSION"] == list(PYTHONS)
