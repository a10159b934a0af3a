"""Which protocol a path belongs to."""

import pytest

from ampd.edge.gateway_paths import belongs_to

UUID = "0199c0de-0000-7000-8000-000000000001"


def which(method, path, bearer=""):
    service, rest = belongs_to(method, [each for each in path.split("/") if each], bearer)
    return service, "/".join(rest)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages"),
        ("GET", "/v1/messages"),
        ("GET", f"/v1/messages/{UUID}"),
        ("GET", f"/v1/messages/{UUID}/status"),
        ("GET", "/v1/messages/no-uuid"),
        ("GET", "/v1/inbox/alice@localhost"),
        ("DELETE", f"/v1/inbox/alice@localhost/{UUID}"),
        ("GET", "/v1/discovery/agents"),
        ("GET", "/v1/discovery/agents/b.example"),
        ("GET", "/v1/capabilities/localhost"),
        ("POST", "/v1/admin/agents"),
        ("PUT", "/v1/admin/schemas/x"),
        ("POST", "/v1/webhooks"),
        ("GET", f"/v1/workflows/{UUID}"),
        ("GET", "/v1/dead-letters"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
    ],
)
def test_d1_amtp_has_its_exact_paths(method, path):
    assert which(method, path) == ("amtp", path[1:])
    assert which(method, f"/api{path}")[0] == "amp"
    assert which(method, f"/v1{path}")[0] == "amp"


@pytest.mark.parametrize(
    ("method", "path", "bearer", "service"),
    [
        ("POST", "/v1/messages", "amp_live_sk_1", "amtp"),
        ("GET", "/v1/messages", "", "amtp"),
        ("GET", "/v1/messages", "amtp-key", "amtp"),
        ("GET", "/v1/messages", "amp_live_sk_1", "amp"),
        ("DELETE", "/v1/messages", "", "amp"),
        ("GET", "/v1/messages/pending", "", "amp"),
        ("DELETE", "/v1/messages/pending", "", "amp"),
        ("GET", "/v1/messages/msg_1_ab", "", "amp"),
        ("DELETE", f"/v1/messages/{UUID}", "", "amp"),
        ("POST", f"/v1/messages/{UUID}/read", "", "amp"),
        ("GET", "/v1/inbox", "", "amp"),
        ("POST", "/v1/inbox/msg_1_ab/ack", "", "amp"),
    ],
)
def test_d2_messages_are_told_apart_by_method_key_and_id(method, path, bearer, service):
    assert which(method, path, bearer)[0] == service


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/api/v1/register", "register"),
        ("/v1/register", "register"),
        ("/register", "register"),
        ("/api/register", "register"),
        ("/api/v1/v1/messages/pending", "messages/pending"),
        ("/v1/v1/v1/route", "route"),
        ("/api/v1/health", "health"),
        ("/v1/health", "health"),
        ("/api/organization", "organization"),
        ("/.well-known/agent-messaging.json", ".well-known/agent-messaging.json"),
        ("/api/api/route", "api/route"),
        ("//api//v1/route/", "route"),
        ("/", ""),
    ],
)
def test_d3_the_rest_is_amps_without_the_noise_before_it(path, rest):
    assert which("GET", path) == ("amp", rest)
