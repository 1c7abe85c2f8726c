"""Sign up, log in, log out."""

import time

from fastapi import APIRouter, Request, Response
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from labshop.api.deps import BuyerDep, ClaimsDep, ShopDep
from labshop.api.errors import TooManyTries, WrongCredentials
from labshop.api.schemas import Credentials, TokenOut, UserOut

router = APIRouter(prefix="/auth", tags=["auth"])

PER_NAME = RateLimitItemPerMinute(10)
# A whole class may sit behind one address.
PER_ADDRESS = RateLimitItemPerMinute(120)


class Tries:
    """Counts tries in a moving window of this process: per name and per address."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def count(self, name: str, address: str) -> None:
        """Count one try.

        Raises:
            TooManyTries: there were too many in the last minute.
        """
        for limit, who in ((PER_ADDRESS, address), (PER_NAME, f"name:{name}")):
            if not await self._limiter.hit(limit, who):
                window = await self._limiter.get_window_stats(limit, who)
                raise TooManyTries(max(1, int(window.reset_time - time.time()) + 1))


async def _count(request: Request, name: str) -> None:
    tries: Tries = request.app.state.tries
    await tries.count(name, request.client.host if request.client else "unknown")


@router.post("/signup", status_code=201, responses={409: {}, 429: {}, 503: {}})
async def sign_up(body: Credentials, shop: ShopDep, request: Request) -> UserOut:
    """Make an account."""
    await _count(request, body.name)
    account = await shop.accounts.create(body.name, await shop.passwords.hash(body.password))
    return UserOut(id=account.id, name=account.name, role=account.role)


@router.post("/login", responses={401: {}, 429: {}, 503: {}})
async def log_in(body: Credentials, shop: ShopDep, request: Request) -> TokenOut:
    """Get a bearer token. A wrong name and a wrong password cannot be told apart."""
    await _count(request, body.name)
    account = await shop.accounts.by_name(body.name)
    password_hash = account.password_hash if account else None
    if not await shop.passwords.verify(body.password, password_hash) or account is None:
        raise WrongCredentials
    return TokenOut(
        access_token=shop.tokens.issue(account.id), expires_in_s=shop.settings.token_ttl_s
    )


@router.post("/logout", status_code=204, responses={401: {}, 503: {}})
async def log_out(claims: ClaimsDep, _buyer: BuyerDep, shop: ShopDep) -> Response:
    """Take the token back; it is refused from here on."""
    await shop.accounts.revoke(claims.token_id, claims.expires_at)
    await shop.inventory.sign_out(claims.token_id, claims.expires_at)
    return Response(status_code=204)
