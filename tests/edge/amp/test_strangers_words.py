"""What strangers may write into the ways in: read, or refused, and never a crash (P8)."""

from hypothesis import given
from hypothesis import strategies as st

from ampd.crypto.foreign_keys import ForeignKey, ForeignSigner
from ampd.edge.amp.discovery import read_record, same_fingerprint, versioned
from ampd.edge.amp.federation import is_loopback
from ampd.edge.amp.intake import key_said
from ampd.edge.amp.webhooks import verify
from ampd.edge.amp.websocket import _frame
from ampd.model.errors import Invalid

KEY = ForeignSigner.from_seed(bytes(32)).public
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.text(max_size=80) | st.from_regex(r'\{"type": ?("[a-z.]{0,9}"|\d+|\[\]|null)\}')


@given(TEXTS)
def test_a_frame_is_an_object_with_a_type_or_refused(text):
    try:
        frame = _frame(text)
    except Invalid:
        return
    assert type(frame["type"]) is str


@given(JSON | st.binary().map(bytes.hex) | st.just(KEY.pem()) | st.just(KEY.raw.hex()))
def test_a_senders_key_is_a_key_or_none(said):
    found = key_said(said)
    assert found is None or isinstance(found, ForeignKey)


@given(st.text(max_size=200))
def test_a_dns_record_is_read_or_passed_over(text):
    fields = read_record(text)
    assert fields == {} or {"v", "endpoint", "pubkey"} <= set(fields)
    assert versioned(text).endswith("/v1")


@given(st.text(max_size=80))
def test_no_text_but_its_own_is_a_keys_fingerprint(text):
    assert not same_fingerprint(KEY, text) or text.startswith("SHA256:")


@given(st.text(max_size=20), st.binary(max_size=20), st.text(max_size=80))
def test_no_webhook_is_verified_by_chance(timestamp, body, given_signature):
    assert not verify("secret", timestamp, body, given_signature, 0)


@given(st.text(max_size=40))
def test_a_peer_is_on_this_machine_or_not(peer):
    assert is_loopback(peer) in (True, False)
