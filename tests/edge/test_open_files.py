"""How many agents strangers may make."""

import resource

import pytest

from ampd.edge import open_files


@pytest.mark.parametrize(
    ("files", "agents"),
    [(256, 100), (1024, 100), (4096, 2596), (1 << 20, 5000), (resource.RLIM_INFINITY, 5000)],
)
def test_of1_agents_leave_files_for_connections_and_mail(monkeypatch, files, agents):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert open_files.most_agents() == agents


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 4096, (4096, 4096)),
        (1024, 1 << 20, (65_536, 1 << 20)),
        (1024, resource.RLIM_INFINITY, (65_536, resource.RLIM_INFINITY)),
        (1 << 20, 1 << 20, None),
    ],
)
def test_of2_the_process_may_open_what_the_system_lets_it(monkeypatch, soft, hard, after):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    open_files.raise_limit()
    assert given == ([] if after is None else [after])
