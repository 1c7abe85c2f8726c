"""Bearer tokens: short-lived, signed, and refused for every reason that there is.

A JWT library checks the signature and leaves the rest to its options; python-jose accepts an
empty secret, a token without an end, an unknown `crit` and any `typ`. So one algorithm is
allowed, every claim is required and typed, the header must be ours to the letter, and any
doubt is a refusal.

What costs is the library. A token that begins with our own header, byte for byte, is therefore
checked by the standard library first; whatever is not accepted there, the other one decides. What
was found to be ours is remembered to the letter, until it ends: a buyer shows a token again and
again. That it was taken back is not remembered here; the gate or the ledger knows it at once.

Source: RFC 7519 (JWT), RFC 8725 (best current practices).
"""

import base64
import hmac
import json
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jose import jwt

from labshop.clock import Clock
from labshop.errors import SetupError

ALGORITHM = "HS256"
ISSUER = "labshop"
AUDIENCE = "labshop-buyers"
HEADER = {"alg": ALGORITHM, "kid": "1", "typ": "JWT"}
CLAIMS = {"aud", "exp", "iat", "iss", "jti", "sub"}
MIN_SECRET_BYTES = 32
MAX_TOKEN_CHARS = 2_048
REMEMBERED = 10_000
"""Tokens that were found to be ours; the one that was found longest ago goes first."""
MAX_USER_ID = 2**31 - 1
# The library's Base64 decoder skips what it does not know, so that a token would have many forms.
SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
SUBJECT = re.compile(r"[1-9][0-9]{0,9}")
TOKEN_ID = re.compile(r"[0-9a-f]{32}")


class TokenRefused(Exception):
    """The token is not one of ours, or is no longer valid."""


@dataclass(frozen=True)
class Claims:
    """What a valid token says."""

    user_id: int
    token_id: str
    expires_at: datetime


class Tokens:
    """Issues and checks tokens.

    Args:
        secret: at least 32 random bytes.
        ttl_s: how long a token is valid, in seconds.

    Raises:
        SetupError: the secret is too short.
    """

    def __init__(self, secret: str, *, ttl_s: int, clock: Clock) -> None:
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise SetupError(
                f"LABSHOP_JWT_SECRET is too short: it must have at least {MIN_SECRET_BYTES} "
                "bytes. Make one with: python3 -c 'import secrets; print(secrets.token_hex(32))'"
            )
        self._secret = secret
        self._secret_bytes = secret.encode()
        self._ttl_s = ttl_s
        self._clock = clock
        self._known: OrderedDict[str, tuple[Claims, int]] = OrderedDict()
        # As the library writes it: what begins otherwise is left to the library.
        self._header = self._encode({}).split(".")[0] + "."

    def issue(self, user_id: int) -> str:
        """A new token for a user."""
        now_s = int(self._clock.wall_s())
        claims = {
            "aud": AUDIENCE,
            "exp": now_s + self._ttl_s,
            "iat": now_s,
            "iss": ISSUER,
            "jti": secrets.token_hex(16),
            "sub": str(user_id),
        }
        return self._encode(claims)

    def check(self, token: str) -> Claims:
        """What a token says, if it can be trusted. Revocation is the caller's to check.

        Raises:
            TokenRefused: for any reason; which one is nobody's business.
        """
        return self.check_fast(token) or self.check_by_library(token)

    def check_fast(self, token: str) -> Claims | None:
        """The same for a token that is ours to the byte, ten times as fast; None in any doubt."""
        known = self._known.get(token)
        if known is not None and self._clock.wall_s() < known[1]:
            return known[0]
        claims = self._read(token)
        if claims is not None:
            if len(self._known) >= REMEMBERED:
                self._known.popitem(last=False)
            self._known[token] = (claims, int(claims.expires_at.timestamp()))
        return claims

    def _read(self, token: str) -> Claims | None:
        signed, _, signature = token.rpartition(".")
        if len(token) > MAX_TOKEN_CHARS or not signed.startswith(self._header):
            return None
        try:
            digest = hmac.digest(self._secret_bytes, signed.encode("ascii"), "sha256")
            expected = base64.urlsafe_b64encode(digest).rstrip(b"=")
            if not hmac.compare_digest(expected, signature.encode("ascii")):
                return None
            payload = signed[len(self._header) :]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            if claims["iss"] != ISSUER:
                return None
            return _checked(claims, int(self._clock.wall_s()))
        except (TokenRefused, ArithmeticError, LookupError, TypeError, ValueError):
            # Signed by us, and yet no token: the library's way refuses it in the same words.
            return None

    def check_by_library(self, token: str) -> Claims:
        """What a token says, by python-jose and the checks that it lacks.

        Raises:
            TokenRefused: for any reason.
        """
        try:
            _check_header(token)
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # The times are checked below, by the clock that was handed in.
                options={"verify_exp": False} | {f"require_{claim}": True for claim in CLAIMS},
            )
            return _checked(claims, int(self._clock.wall_s()))
        except Exception as error:
            # The library raises a dozen kinds on hostile input, some of them unplanned.
            raise TokenRefused from error

    def _encode(self, claims: dict[str, Any]) -> str:
        headers = {"kid": HEADER["kid"]}
        return str(jwt.encode(claims, self._secret, algorithm=ALGORITHM, headers=headers))


def _check_header(token: str) -> None:
    if len(token) > MAX_TOKEN_CHARS or not SHAPE.fullmatch(token):
        raise TokenRefused
    if jwt.get_unverified_header(token) != HEADER:
        raise TokenRefused


def _checked(claims: dict[str, Any], now_s: int) -> Claims:
    exp, iat, sub, jti = (claims[name] for name in ("exp", "iat", "sub", "jti"))
    # The library takes a list of audiences, too.
    if set(claims) != CLAIMS or claims["aud"] != AUDIENCE:
        raise TokenRefused
    if type(exp) is not int or type(iat) is not int:
        raise TokenRefused
    if not (iat <= now_s + 1 and now_s < exp):
        raise TokenRefused
    if not (SUBJECT.fullmatch(sub) and int(sub) <= MAX_USER_ID and TOKEN_ID.fullmatch(jti)):
        raise TokenRefused
    return Claims(int(sub), jti, datetime.fromtimestamp(exp, UTC))
