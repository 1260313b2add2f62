"""The HTTP interface, wired: FastAPI over the replica, and the process that serves it."""

import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata, resources
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from embedding_store.redis_client import connect
from embedding_store.replica import Holding, Replica
from services.ranker import openapi, problems, schema
from services.ranker.impressions import ImpressionLog
from services.ranker.metrics import RankerMetrics
from services.ranker.problems import Problem, documented
from services.ranker.score import ModelFollower, compile_kernels
from services.ranker.service import Limits, RankerService
from services.ranker.sink import KafkaSink
from services.ranker.stored_features import KINDS, FeatureLimits, Kind, StoredFeatures
from services.settings import Settings

_log = logging.getLogger(__name__)
_GRACE_S = 5
_FEATURES_MS = 250
_CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def build_app(service: RankerService, metrics: RankerMetrics, max_body_bytes: int) -> FastAPI:
    """The endpoints over a service."""
    page = (resources.files("services.ranker") / "index.html").read_text(encoding="utf-8")
    app = FastAPI(
        title="Dolmen ranker",
        version=metadata.version("dolmen"),
        description="Ranks candidates for a visitor, from parameters that are seconds old.",
        redoc_url=None,
    )
    problems.install(app)

    @app.post(
        "/v1/rank",
        summary="Rank candidates",
        openapi_extra=_body(openapi.RANK_BODY),
        responses={200: _answer("The ranked candidates", openapi.RANK_ANSWER), **documented(413, 415, 422, 503)},
    )
    async def rank(request: Request) -> Response:
        """The candidates by score. Ids that nobody has seen score as any other such id does."""
        start = time.perf_counter()
        status, candidates = 500, 0
        try:
            query = schema.parse_rank(await schema.read_json(request, max_body_bytes))
            candidates = len(query.items)
            body = orjson.dumps(await service.rank(query))
            status = 200
        except Problem as problem:
            status = problem.status
            raise
        finally:
            metrics.ranked(status, time.perf_counter() - start, candidates)
        return _json(body)

    @app.post(
        "/v1/explain",
        summary="Explain a score",
        openapi_extra=_body(openapi.EXPLAIN_BODY),
        responses={200: _answer("The parts of the logit", openapi.EXPLAIN_ANSWER), **documented(413, 415, 422, 503)},
    )
    async def explain(request: Request) -> Response:
        """What each feature adds to the logit of one item for one visitor."""
        query = schema.parse_explain(await schema.read_json(request, max_body_bytes))
        return _json(orjson.dumps(await service.explain(query)))

    @app.post(
        "/v1/events",
        summary="Send impressions, actions and labelled examples",
        status_code=202,
        openapi_extra=_body(openapi.EVENTS_BODY),
        responses={202: _answer("Kafka has the events", openapi.EVENTS_ANSWER), **documented(413, 415, 422, 503)},
    )
    async def events(request: Request) -> Response:
        """Answers once Kafka has every valid event; says of each other one why it was rejected."""
        lists = schema.parse_events(await schema.read_json(request, max_body_bytes))
        return _json(orjson.dumps(await service.take(lists)), 202)

    for kind in KINDS:
        app.add_api_route(
            f"/v1/{kind}/{{id:path}}",
            _put_features(service, kind, max_body_bytes),
            methods=["PUT"],
            name=f"put_{kind}",
            summary=f"Store features of one of the {kind}",
            status_code=204,
            response_class=Response,
            openapi_extra=_body(openapi.FEATURES_BODY),
            responses=documented(404, 413, 415, 422, 503, 507),
        )

    @app.get("/v1/model", summary="What scores now", responses=documented(503))
    async def model() -> Response:
        """Name, commit, age, tasks, tables, features, plan."""
        return _json(orjson.dumps(service.describe()))

    @app.get("/healthz", summary="Alive")
    async def healthz() -> Response:
        """Answers as long as the process does."""
        return _json(b'{"status":"alive"}')

    @app.get("/readyz", summary="Ready to rank", responses=documented(503))
    async def readyz() -> Response:
        """The store answers, the replica is there, and its lag is below the limit."""
        return _json(orjson.dumps(service.check_ready()))

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics_(request: Request) -> Response:
        """In the format that the Accept header asks for."""
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": _CONTENT_POLICY, "cache-control": "no-cache"})

    return app


def _put_features(service: RankerService, kind: Kind, max_body_bytes: int) -> Callable[..., Awaitable[Response]]:
    async def put(request: Request, id: str) -> Response:
        """From now on requests may send the id alone; features in a request win. An empty object removes them."""
        features = schema.parse_features(id, await schema.read_json(request, max_body_bytes))
        await service.put_features(kind, id, features)
        return Response(status_code=204)

    return put


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _body(described: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": described}}}}


def _answer(text: str, described: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": described}}}


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0: a free one.

    Raises:
        OSError: If the port is taken, or the host is no address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _stored_features(settings: Settings, metrics: RankerMetrics) -> StoredFeatures:
    chosen = settings.ranker
    limits = FeatureLimits(
        chosen.features_bytes, chosen.features_count, chosen.features_cache, chosen.features_fresh / 1000
    )
    store = settings.store.model_copy(update={"timeout": min(settings.store.timeout, _FEATURES_MS)})
    return StoredFeatures(connect(store), store.prefix, limits, metrics)


class _Server(uvicorn.Server):
    """Ends when asked to by its own signal handlers, or by those that were there before."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()


def serve(settings: Settings, kafka: Mapping[str, Any], bound: socket.socket, stop: threading.Event) -> None:
    """Serves until a signal comes or `stop` is set. To be called in the main thread.

    Args:
        settings: Of this process.
        kafka: What a Kafka producer needs to connect.
        bound: Where to listen.
        stop: Ends it.
    """
    metrics = RankerMetrics()
    follower = ModelFollower(metrics)
    cached = settings.ranker.replica == "cached"
    holding = Holding(settings.ranker.codec, settings.ranker.cache_memory if cached else None)
    replica = Replica(settings.store, follower, holding=holding)
    compile_kernels(settings.definition(), replica.make_shard)
    sink = KafkaSink(kafka, settings.ranker.max_body_bytes)
    limits = Limits(ready_lag_ms=settings.ranker.ready_lag, max_ahead_ms=settings.events.max_ahead)
    topics = settings.events.topics
    logged = KafkaSink(kafka, settings.ranker.max_body_bytes)  # of its own: its failures close it
    impressions = ImpressionLog(logged, topics.impressions, metrics)
    features = _stored_features(settings, metrics)
    service = RankerService(replica, follower, metrics, sink, topics, impressions, features, limits)
    config = uvicorn.Config(
        build_app(service, metrics, settings.ranker.max_body_bytes),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    replica.start()
    impressions.start()
    try:
        host, port = bound.getsockname()[:2]
        _log.info("the ranker listens on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        _Server(config, stop).run([bound])
    finally:
        replica.stop()
        service.close()
        impressions.close()
        for some in (sink, logged):
            some.close()
