"""Clients of the foreign protocols, as the public ones behave: plain HTTP, blocking, no library.

`AmpClient` signs as AMP's bash commands do, `AmtpClient` speaks as the AMTP command line does.
"""

import base64
import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request

from nacl.signing import SigningKey

SPKI = bytes.fromhex("302a300506032b6570032100")  # before the 32 bytes of an Ed25519 key (RFC 8410)


class HttpError(Exception):
    """A status that is no success, with the document that came."""

    def __init__(self, status, document):
        super().__init__(f"{status}: {document}")
        self.status, self.document = status, document


def ask(method, url, document=None, **headers):
    """One request; the document of the answer."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            raise HttpError(exc.code, exc.read().decode()) from None


class AmpClient:
    """One agent of AMP: its key, and what a provider gave it."""

    def __init__(self, url, name, tenant="default"):
        self.url = url
        self._key = SigningKey.generate()
        der = base64.b64encode(SPKI + bytes(self._key.verify_key)).decode()
        answer = ask("POST", f"{url}/api/v1/register", {
            "name": name, "tenant": tenant, "key_algorithm": "Ed25519",
            "public_key": f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----",
        })  # fmt: skip
        self.address = answer["address"]
        self._auth = f"Bearer {answer['api_key']}"

    def send(self, to, subject, message, in_reply_to=None, thread_id=None, **more):
        """The provider's answer to a signed message."""
        payload = {"type": "request", "message": message, "context": None, **more}
        packed = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        digest = base64.b64encode(hashlib.sha256(packed.encode()).digest()).decode()
        signed = f"{self.address}|{to}|{subject}|normal|{in_reply_to or ''}|{digest}"
        signature = base64.b64encode(self._key.sign(signed.encode()).signature).decode()
        return ask("POST", f"{self.url}/api/v1/route", {
            "to": to, "subject": subject, "priority": "normal", "payload": payload,
            "in_reply_to": in_reply_to, "thread_id": thread_id, "signature": signature,
        }, Authorization=self._auth)  # fmt: skip

    def pending(self):
        """The messages that wait."""
        url = f"{self.url}/api/v1/messages/pending"
        return ask("GET", url, Authorization=self._auth)["messages"]

    def acknowledge(self, identifier):
        """Take one out of the queue."""
        url = f"{self.url}/api/v1/messages/pending/{identifier}"
        return ask("DELETE", url, Authorization=self._auth)


class AmtpClient:
    """One agent of AMTP."""

    def __init__(self, url, name, admin_key):
        self.url = url
        answer = ask("POST", f"{url}/v1/admin/agents", {
            "address": name, "delivery_mode": "pull",
        }, X_Admin_Key=admin_key)  # fmt: skip
        self.address = answer["address"]
        self._auth = f"Bearer {answer['api_key']}"

    def send(self, to, subject, payload, in_reply_to=""):
        """The gateway's answer."""
        document = {"sender": self.address, "recipients": [to], "subject": subject}
        document |= {"payload": payload} | ({"in_reply_to": in_reply_to} if in_reply_to else {})
        return ask("POST", f"{self.url}/v1/messages", document)

    def inbox(self):
        """The messages that are not acknowledged."""
        url = f"{self.url}/v1/inbox/{urllib.parse.quote(self.address, safe='')}"
        return ask("GET", url, Authorization=self._auth)["messages"] or []

    def acknowledge(self, identifier):
        """Take one out of the inbox."""
        url = f"{self.url}/v1/inbox/{urllib.parse.quote(self.address, safe='')}/{identifier}"
        return ask("DELETE", url, Authorization=self._auth)

    def status(self, identifier):
        """Delivery of a message that this agent sent."""
        return ask("GET", f"{self.url}/v1/messages/{identifier}/status")
