"""What a route asks for: the shop, the buyer, the administrator."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from labshop.api.errors import Forbidden
from labshop.api.shop import Shop
from labshop.api.tokens import Claims, TokenRefused
from labshop.storage.accounts import Account

bearer = HTTPBearer(auto_error=False, description="The token that `/auth/login` gives.")


async def get_shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


ShopDep = Annotated[Shop, Depends(get_shop)]


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


async def get_admin(buyer: BuyerDep) -> Account:
    if buyer.role != "admin":
        raise Forbidden
    return buyer


AdminDep = Annotated[Account, Depends(get_admin)]
