"""``GET /metrics``, to be included in the gateway's HTTP application. Knows the path, not what is counted."""

from fastapi import APIRouter, Response

from expertmesh.gateway.metrics.exposition import CONTENT_TYPE, Metrics


def make_router(metrics: Metrics) -> APIRouter:
    """Serve ``metrics`` under the path that Prometheus asks by default."""
    # Not part of the API's document: its form is Prometheus's, and its names are in docs/monitoring.md.
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def get_metrics() -> Response:
        """Return every metric in Prometheus's text format, version 0.0.4."""
        return Response(await metrics.render(), media_type=CONTENT_TYPE)

    return router
