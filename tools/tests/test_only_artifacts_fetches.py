"""The house rule finds what fetches, and lets alone what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader
from ansiblelint.app import App
from ansiblelint.config import Options
from ansiblelint.file_utils import Lintable
from ansiblelint.rules import RulesCollection
from ansiblelint.runner import Runner
from only_artifacts_fetches import OnlyArtifactsFetchesRule

OPTIONS = Options(offline=True)
APP = App(options=OPTIONS)

FETCHES = {
    "get_url": "ansible.builtin.get_url: {url: '{{ x }}', dest: /tmp/x, mode: '0644'}",
    "repository": "ansible.builtin.apt_repository: {repo: '{{ x }}'}",
    "deb822": "ansible.builtin.deb822_repository: {name: x, uris: '{{ x }}'}",
    "git": "ansible.builtin.git: {repo: '{{ x }}', dest: /x, version: v1}",
    "download": "ansible.builtin.uri: {url: '{{ x }}', dest: /tmp/x}",
    "unarchive": "ansible.builtin.unarchive: {src: 'ftp://{{ x }}/a.tar', dest: /x}",
    "address": "ansible.builtin.debug: {msg: 'see https://archive.vendor.net/key'}",
}
HARMLESS = {
    "own": "ansible.builtin.uri: {url: 'http://127.0.0.1:8080/health'}",
    "templated": "ansible.builtin.uri: {url: 'https://{{ ansible_host }}:8443/v2/health/ready'}",
    "local": "ansible.builtin.unarchive: {src: /tmp/a.tar, dest: /x}",
    "comment": "ansible.builtin.debug: {msg: x}   # see https://archive.vendor.net/manual",
}


@pytest.fixture(scope="module", autouse=True)
def _loader() -> None:
    """Let Ansible find collections, as its programs do when they start."""
    init_plugin_loader()


def _lint(directory: Path, role: str, part: str, content: str) -> list[str]:
    path = directory / "roles" / role / part
    path.parent.mkdir(parents=True)
    path.write_text(content)
    rules = RulesCollection(app=APP, options=OPTIONS)
    rules.register(OnlyArtifactsFetchesRule())
    found = Runner(Lintable(path), rules=rules).run()
    return [match.rule.id for match in found if match.rule.id == OnlyArtifactsFetchesRule.id]


@pytest.mark.parametrize("task", FETCHES.values(), ids=FETCHES.keys())
def test_a_task_that_fetches_is_found(tmp_path: Path, task: str) -> None:
    """Each module that fetches, and each literal address, is reported once."""
    assert _lint(tmp_path, "gateway", "tasks/main.yml", f"---\n- name: X\n  {task}\n") == ["only-artifacts-fetches"]


@pytest.mark.parametrize("task", FETCHES.values(), ids=FETCHES.keys())
def test_the_role_artifacts_may_fetch(tmp_path: Path, task: str) -> None:
    """The same task is fine in the role that fetches."""
    assert _lint(tmp_path, "artifacts", "tasks/main.yml", f"---\n- name: X\n  {task}\n") == []


@pytest.mark.parametrize("task", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_stays_inside_is_left_alone(tmp_path: Path, task: str) -> None:
    """Addresses of the site itself, local files and comments are fine."""
    assert _lint(tmp_path, "gateway", "tasks/main.yml", f"---\n- name: X\n  {task}\n") == []


def test_templates_are_read_too(tmp_path: Path) -> None:
    """An address that a template would write into a configuration is found."""
    found = _lint(
        tmp_path, "gateway", "templates/x.conf.j2", "{# https://a.vendor.net #}\nserver http://a.vendor.net;\n"
    )
    assert found == ["only-artifacts-fetches"]
