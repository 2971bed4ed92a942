"""Differences between argument specs, defaults and READMEs are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from _roles import Role
from check_specs import calls, check_role
from render_docs import BEGIN, END, render, text

META = """
galaxy_info: {author: a, description: What it is, license: X, min_ansible_version: "2.19", platforms: [x]}
"""
DEFAULTS = """
gateway_port: 443
gateway_names: []
gateway_key: "{{ undef(hint='set it') }}"
gateway_long: >-
  {{ a
  }} b
"""
SPEC = """
argument_specs:
  main:
    short_description: Does it
    description: It does C(it).
    author: a
    version_added: 0.1.0
    options:
      gateway_port: {type: int, default: 443, description: Port.}
      gateway_names:
        type: list
        elements: dict
        default: []
        description: Names.
        options:
          name: {type: str, required: true, description: The name.}
      gateway_key: {type: str, required: true, description: Key.}
      gateway_long: {type: str, default: "{{ a }} b", description: Long.}
"""


def _role(directory: Path, spec: str = SPEC, defaults: str = DEFAULTS) -> Role:
    path = directory / "gateway"
    for name, content in {
        "meta/main.yml": META,
        "meta/argument_specs.yml": spec,
        "defaults/main.yml": defaults,
        "vars/main.yml": "__gateway_x: 1",
        "tasks/main.yml": "[]",
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return Role(path)


def test_a_role_that_agrees(tmp_path: Path) -> None:
    """Nothing is said of a role in order; how a default is wrapped does not matter."""
    assert check_role(_role(tmp_path), {}) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("default: 443", "default: 444", "the default of gateway_port is 444 in the spec and 443"),
        ("      gateway_port: {type: int, default: 443, description: Port.}\n", "", "gateway_port is in defaults"),
        ("{type: int, default: 443,", "{type: int,", "gateway_port has a default in defaults/main.yml but none"),
        ("{type: int, default: 443,", "{type: int, required: true,", "gateway_port is required in the spec but"),
        ("gateway_key: {type: str, required: true,", "gateway_key: {type: str,", "gateway_key must be set by the user"),
        (
            "gateway_long: {",
            "gateway_other: {type: str, default: x, description: X.}\n      gateway_long: {",
            "gateway_other",
        ),
        ("{type: str, required: true, description: The name.}", "{type: str}", "gateway_names.name has no description"),
        ("        elements: dict\n", "", "gateway_names is a list without elements"),
        ("  main:\n", "  check: {short_description: x}\n  main:\n", "entry point check has no tasks/check.yml"),
    ],
)
def test_a_difference_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each way of drifting apart is reported with the variable's name."""
    assert old in SPEC
    assert any(said in problem for problem in check_role(_role(tmp_path, SPEC.replace(old, new)), {}))


def test_names_of_variables(tmp_path: Path) -> None:
    """A public variable carries the role's name."""
    role = _role(tmp_path, SPEC.replace("gateway_port", "port"), DEFAULTS.replace("gateway_port", "port"))
    assert check_role(role, {}) == ["port in defaults/main.yml does not begin with gateway_"]


def test_calls_are_found_at_any_depth() -> None:
    """Blocks, rescues and plays are searched."""
    task = {"ansible.builtin.include_role": {"name": "ai102.inference.pki", "tasks_from": "check.yml"}}
    assert list(calls([{"tasks": [{"block": [], "rescue": [task]}]}])) == [("ai102.inference.pki", "check")]


def test_readme_keeps_what_people_wrote(tmp_path: Path) -> None:
    """Only the part between the markers is renewed, and a second time changes nothing."""
    first = render(_role(tmp_path), f"# Title\n\nBy hand.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    assert first.startswith("# Title\n\nBy hand.\n")
    assert first.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in first
    assert "| `gateway_port` | int | `443` | Port. |" in first
    assert "| `gateway_names[].name` | str | **required** | The name. |" in first
    assert render(_role(tmp_path), first) == first


def test_markup() -> None:
    """Ansible's markup becomes Markdown."""
    assert text(["See C(x) and", "L(there, https://example.org)."]) == "See `x` and [there](https://example.org)."
