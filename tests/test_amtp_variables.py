"""The variables of AMTP's reference gateway: understood, without effect, or an error."""

import pytest

from ampd.amtp_variables import UNDERSTOOD
from ampd.config import load
from ampd.model.errors import Invalid


@pytest.fixture
def settings(tmp_path):
    def read(toml="", /, **environ):
        (tmp_path / "config.toml").write_text(toml)
        return load(home=str(tmp_path), config_file=None, environ=environ)

    return read


def test_av1_a_script_of_the_reference_gateway_means_the_same_here(settings):
    config = settings(
        AMTP_SERVER_ADDRESS=":8080",
        AMTP_DOMAIN="agents.example",
        AMTP_TLS_ENABLED="false",
        AMTP_ADMIN_KEY_FILE="/etc/amtp/admin.keys",
        AMTP_MESSAGE_MAX_SIZE="1048576",
        AMTP_DNS_RESOLVERS="9.9.9.9:53,1.1.1.1:53",
        AMTP_DNS_MOCK_RECORDS='{"b.example": "v=amtp1;gateway=http://localhost:8081"}',
        AMTP_LOG_LEVEL="warn",
        AMTP_LOG_FORMAT="json",
        AMTP_AUTH_REQUIRED="true",
    )
    assert config.gateway.listen == ("0.0.0.0", 8080)
    assert config.gateway.amtp_domain == "agents.example"
    assert config.gateway.plain_http
    assert str(config.gateway.admin_keys) == "/etc/amtp/admin.keys"
    assert config.limits.message_bytes == 1048576
    assert config.gateway.dns == "9.9.9.9:53"
    assert config.gateway.resolve == {"b.example": "http://localhost:8081"}
    assert (config.log.level, config.log.format) == ("warning", "json")
    assert config.gateway.amtp_auth == "agent"
    assert config.without_effect == ()


def test_av1_files_are_named_from_where_the_daemon_starts(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(AMTP_TLS_CERT_FILE="tls/cert.pem", AMTP_TLS_KEY_FILE="tls/key.pem")
    assert config.gateway.certificate == tmp_path / "tls/cert.pem"
    assert config.gateway.key == tmp_path / "tls/key.pem"


def test_av1_a_variable_of_ours_beats_theirs_and_theirs_beats_the_file(settings):
    toml = '[gateway]\namtp_domain = "file.example"'
    assert settings(toml, AMTP_DOMAIN="a.example").gateway.amtp_domain == "a.example"
    both = {"AMTP_DOMAIN": "a.example", "AMPD_GATEWAY_AMTP_DOMAIN": "b.example"}
    assert settings(toml, **both).gateway.amtp_domain == "b.example"


def test_av1_a_message_size_beyond_ours_is_ours(settings):
    assert settings(AMTP_MESSAGE_MAX_SIZE="10485760").limits.message_bytes == 4 << 20


@pytest.mark.parametrize(
    ("text", "server"),
    [("9.9.9.9", "9.9.9.9:53"), ("2620:fe::fe", "[2620:fe::fe]:53"), ("[::1]:5353", "[::1]:5353")],
)
def test_av1_a_name_server_needs_no_port_there(settings, text, server):
    assert settings(AMTP_DNS_RESOLVERS=text).gateway.dns == server


def test_av2_what_has_no_effect_is_named(settings):
    config = settings(AMTP_STORAGE_TYPE="database", AMTP_DNS_CACHE_TTL="5m")
    assert config.without_effect == ("AMTP_DNS_CACHE_TTL", "AMTP_STORAGE_TYPE")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("AMTP_SERVER_ADDRESS", "nowhere"),
        ("AMTP_DOMAIN", "a b"),
        ("AMTP_TLS_ENABLED", "perhaps"),
        ("AMTP_MESSAGE_MAX_SIZE", "10MB"),
        ("AMTP_DNS_MOCK_RECORDS", "[1]"),
        ("AMTP_DNS_MOCK_RECORDS", '{"a.b": "v=amtp1"}'),
        ("AMTP_DNS_RESOLVERS", "ns.example"),
        ("AMTP_LOG_LEVEL", "loud"),
        ("AMTP_ADMIN_API_KEY_HEADER", "X-Secret"),
        ("AMTP_SERVER_ADRESS", ":8080"),
    ],
)
def test_av3_what_would_silently_not_happen_is_an_error_that_names_it(settings, variable, text):
    with pytest.raises(Invalid, match=f"^{variable}: "):
        settings(**{variable: text})


def test_the_variables_of_clients_and_of_others_are_left_alone(settings):
    config = settings(AMTP_GATEWAY_URL="x", AMTP_API_KEY="y", AMTP_PROJECT_OF_OURS="z")
    assert config.without_effect == ()


def test_every_variable_that_is_understood_names_a_setting_that_exists(settings):
    config = settings()
    for section, key in (each for each, _ in UNDERSTOOD.values()):
        assert hasattr(getattr(config, section), key)
