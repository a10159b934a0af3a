"""What an account may change about how it is known: its API keys and its key pair (section 03).

  POST    /auth/rotate-key     a new API key; the old one works for 24 hours more
  DELETE  /auth/revoke-key     no API key works any more
  POST    /auth/rotate-keys    a new key pair, proved by the old one

CR1  A new key pair is taken only with a proof: a signature of the old one over the new public key
     in any of the forms that clients sign (K14). The node never makes a private key for a client.
"""

from dataclasses import replace

from ampd.edge.amp.accounts import Account, Accounts
from ampd.edge.amp.keys import ALGORITHMS, checker, key_in
from ampd.edge.amp.rendering import seconds_text
from ampd.edge.gateway_values import Shared
from ampd.edge.http.words import Answer, Request
from ampd.protocol.amp.faults import Fault, missing
from ampd.protocol.amp.signing import rotation_proofs, signature_bytes

_NO_STORE = {"Cache-Control": "no-store"}


class Credentials:
    """Renews and revokes."""

    def __init__(self, shared: Shared, accounts: Accounts) -> None:
        self._shared = shared
        self._accounts = accounts

    async def rotate_key(self, _request: Request, account: Account) -> Answer:
        """POST /auth/rotate-key."""
        api_key, until = await self._accounts.rotate_key(account)
        answer = {
            "api_key": api_key,
            "expires_at": None,
            "previous_key_valid_until": seconds_text(until),
        }
        return Answer.json(200, answer, _NO_STORE)

    async def revoke_key(self, _request: Request, account: Account) -> Answer:
        """DELETE /auth/revoke-key."""
        await self._accounts.revoke_keys(account)
        revoked_at = seconds_text(self._shared.now())
        return Answer.json(200, {"revoked": True, "revoked_at": revoked_at})

    async def rotate_keys(self, request: Request, account: Account) -> Answer:
        """POST /auth/rotate-keys (CR1)."""
        body = request.json() if request.body else {}
        if not isinstance(body, dict):
            raise Fault("invalid_request", 400, "the body must be a JSON object")
        said = body.get("new_public_key")
        algorithm = body.get("key_algorithm") or ALGORITHMS[account.key.algorithm]
        new = key_in(said, algorithm, "new_public_key")
        proof = signature_bytes(body.get("proof"))
        if not body.get("proof"):
            raise missing("proof")
        check = checker(account.key)
        texts = rotation_proofs(str(said), new.raw)
        if not proof or not any(check(proof, text) for text in texts):
            raise Fault(
                "signature_invalid", 401,
                "the proof is not the old key's signature over the new public key", field="proof",
            )  # fmt: skip
        await self._accounts.change(replace(account, public_key=new.pem()))
        answer = {
            "rotated": True,
            "address": account.address,
            "fingerprint": new.fingerprint,
            "public_key": new.pem(),
            "key_algorithm": ALGORITHMS[new.algorithm],
        }
        return Answer.json(200, answer)
