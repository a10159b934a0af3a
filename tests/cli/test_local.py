"""The paths that a client computes are the ones of the daemon (ampd/protocol/local.py)."""

import os
from pathlib import Path

import appdirs
import pytest

from ampd.config import find_paths
from ampd.protocol import local

HOMES = [
    {},
    {"XDG_DATA_HOME": "/somewhere/share", "XDG_CONFIG_HOME": "/somewhere/config"},
    {"XDG_RUNTIME_DIR": "/run/user/1000"},
    {"XDG_RUNTIME_DIR": ""},
    {"AMPD_HOME": "/portable", "XDG_RUNTIME_DIR": "/run/user/1000"},
    {"AMPD_HOME": "relative"},
    {"AMPD_HOME": ""},
]


@pytest.fixture(params=HOMES, ids=str)
def environ(request, monkeypatch):
    for name in ("AMPD_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return os.environ


def test_the_paths_are_those_of_the_daemon(environ):
    paths = find_paths(None, None, environ)
    assert local.data_folder(environ) == str(paths.data)
    assert local.run_folder(environ) == str(paths.run)
    assert local.main_socket(environ) == str(paths.socket)
    assert local.config_file(environ) == str(paths.config_file)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_folders_are_those_of_appdirs(platform, monkeypatch):
    for name in ("AMPD_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(appdirs, "system", platform)
    assert local.data_folder(os.environ, platform) == appdirs.user_data_dir("ampd")
    config = Path(local.config_file(os.environ, platform))
    assert str(config.parent) == appdirs.user_config_dir("ampd")
