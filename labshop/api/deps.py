"""What a route asks for: the shop, and the buyer."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from labshop.api.shop import Shop
from labshop.api.tokens import Claims, TokenRefused
from labshop.shop.errors import Unavailable
from labshop.storage.accounts import Account

bearer = HTTPBearer(auto_error=False, description="The token that `/auth/login` gives.")


async def get_any_shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


AnyShopDep = Annotated[Shop, Depends(get_any_shop)]
"""The shop, in whatever state it is."""


async def get_shop(shop: AnyShopDep) -> Shop:
    if not shop.stocked:
        raise Unavailable("ledger", "it is not set up yet")
    return shop


ShopDep = Annotated[Shop, Depends(get_shop)]
"""A shop whose ledger has its tables and its catalogue."""


async def get_claims(
    shop: ShopDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Claims:
    if credentials is None:
        raise TokenRefused
    return shop.tokens.check(credentials.credentials)


ClaimsDep = Annotated[Claims, Depends(get_claims)]


async def get_buyer(shop: ShopDep, claims: ClaimsDep) -> Account:
    account = await shop.accounts.holder_of(claims.user_id, claims.token_id)
    if account is None:
        raise TokenRefused
    return account


BuyerDep = Annotated[Account, Depends(get_buyer)]
