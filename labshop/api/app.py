"""The application: routes, error table, limits, and a complete OpenAPI description."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from labshop.api import auth, catalog, errors, health, purchases
from labshop.api.admission import Admission, doors_of
from labshop.api.desk import Desk
from labshop.api.edge import Edge
from labshop.api.limits import RequestLimits
from labshop.api.schemas import Problem
from labshop.api.shop import build_shop, running
from labshop.settings import Settings

DESCRIPTION = """
A Black-Friday sale: many buyers, few units. Sign up, log in, and buy by the stage of your
choice. Every error is a problem document (RFC 9457); a 503 says when to try again.
"""


class ShopApp(FastAPI):
    """The application, behind its fast lane: a middleware would come too late to save anything."""

    edge: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.edge(scope, receive, send)


def create_app(settings: Settings, *, gate_url: str) -> FastAPI:
    """Build the application; its shop opens with it.

    Args:
        settings: all of them.
        gate_url: the Redis primary that holds the stock.

    Raises:
        SetupError: a setting is not usable.
    """
    shop = build_shop(settings, gate_url=gate_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(shop):
            yield

    app = ShopApp(
        title="labshop",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses={400: {}, 408: {}, 413: {}, 422: {}, 503: {}},
    )
    app.state.shop = shop
    app.state.desk = Desk(shop)
    app.state.tries = auth.Tries()
    for router in (auth.router, catalog.router, purchases.router, health.router):
        app.include_router(router)
    for stage in shop.strategies:
        app.include_router(purchases.purchase_route(stage))
    errors.install(app)
    doors = doors_of({stage: each.bulkhead for stage, each in shop.strategies.items()})
    app.add_middleware(
        RequestLimits,
        body_limit_bytes=settings.body_limit_bytes,
        receive_timeout_ms=settings.receive_timeout_ms,
        request_timeout_ms=settings.request_timeout_ms,
        doors=doors,
    )
    describe_problems(app)
    edge = Edge(
        super(ShopApp, app).__call__,
        shop=shop,
        desk=app.state.desk,
        body_limit_bytes=settings.body_limit_bytes,
        receive_timeout_ms=settings.receive_timeout_ms,
        request_timeout_ms=settings.request_timeout_ms,
    )
    app.edge = Admission(edge, doors=doors, metrics=shop.metrics, clock=shop.clock)
    return app


def describe_problems(app: FastAPI) -> None:
    """Let the OpenAPI description give every error as a problem document."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
            content = {errors.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            for path in schema["paths"].values():
                for operation in path.values():
                    for status, response in operation["responses"].items():
                        if status >= "400":
                            response["content"] = content
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented hook
