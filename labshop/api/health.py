"""Is it alive, can it sell, what does it count, and what does an empty route cost."""

import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from labshop.api.deps import AnyShopDep
from labshop.api.schemas import HealthOut, ReadyOut

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def health() -> HealthOut:
    """The process is alive."""
    return HealthOut()


@router.get("/readyz", responses={503: {}})
async def ready(shop: AnyShopDep) -> ReadyOut:
    """The shop can sell; if not, the answer says which part is away."""
    await shop.check()
    age_ms = shop.repairs.age_ms()
    compared_ms_ago = None if age_ms is None else round(age_ms)
    return ReadyOut(
        leader=shop.scheduler.fence > 0,
        compared_ms_ago=compared_ms_ago,
        breakers={guard.breaker.name: guard.breaker.state for guard in shop.guards},
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(shop: AnyShopDep) -> Response:
    """Metrics for Prometheus."""
    return Response(shop.metrics.render(), media_type="text/plain; version=0.0.4")


@router.get("/null")
async def null() -> None:
    """Do nothing: the yardstick of the benchmarks."""


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(shop: AnyShopDep) -> EventSourceResponse:
    """Purchases, cancellations and lock events as they happen, as server-sent events."""

    async def stream() -> AsyncIterator[ServerSentEvent]:
        with shop.events.listen() as queue:
            while True:
                event = await queue.get()
                yield ServerSentEvent(json.dumps(event.details), event=event.kind)

    return EventSourceResponse(stream(), ping=15)
