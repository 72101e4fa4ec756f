"""Envoy's routes: which requests are open, where they go, how they are retried."""

from __future__ import annotations

from delugeserve.serving.front import filters
from delugeserve.serving.front.clusters import CANARY, GATEWAY, HTTP_SUFFIX, REPLICAS, Config
from delugeserve.serving.front.settings import FrontSettings, Limits

GRPC = "grpc"
HTTP = "http"
INTERNAL = "internal"
_SERVICE = "/inference.GRPCInferenceService/"
#: What a client may call; Triton's other methods change the server or tell of its machine.
OPEN_METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
    "RepositoryIndex",  # lists the models; loading and unloading are closed
)
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
#: Paths of the gateway, which anybody may ask for.
PUBLIC_GATEWAY_PATHS = ("/healthz", "/readyz")
GATEWAY_PATHS = ("/classify", "/models", "/openapi.json", "/docs")
_MODEL = r"/v2/models/[A-Za-z0-9_.-]+(/versions/[0-9]+)?"
_READING = rf"/v2|{_MODEL}(/(ready|config|stats))?"
_SHARE = 10_000  # parts in which the canary's share is counted
_GATEWAY_REPLY_SECONDS = 5.0
_CLOSED = "This API is closed."


def route_configuration(
    name: str, settings: FrontSettings, canary_share: float, *, gateways: bool = False
) -> Config:
    """Return the routes of a listener.

    Args:
        name: the listener: ``grpc``, ``http`` or ``internal``.
        settings: the front's settings.
        canary_share: share of requests for the canary, from 0 to 1.
        gateways: every replica has a gateway of its own, behind its HTTP endpoint.
    """
    limits = settings.limits
    if name == HTTP:
        made = _http_routes(settings, canary_share, gateways=gateways)
    else:
        made = _grpc_routes(settings, canary_share)
    scripts = {} if name == INTERNAL else filters.script_values(settings)
    return {
        "name": name,
        "virtual_hosts": [
            {
                "name": name,
                "domains": ["*"],
                "routes": made,
                "request_body_buffer_limit": limits.request_bytes,
                # The gateway does not decode an image again that may have ended it.
                "include_request_attempt_count": name == HTTP,
                "typed_per_filter_config": scripts,
            }
        ],
        # The health checks of the clusters decide; a route never waits for one.
        "validate_clusters": False,
    }


def _grpc_routes(settings: FrontSettings, share: float) -> list[Config]:
    limits = settings.limits
    action = _action("", share, limits, _grpc_retries(limits))
    # A client's own deadline ends the request here too.
    action["max_stream_duration"] = {"grpc_timeout_header_max": seconds(limits.answer_seconds)}
    return [
        _public({"match": {"path": HEALTH_METHOD}, "route": action}, settings),
        *({"match": {"path": _SERVICE + method}, "route": action} for method in OPEN_METHODS),
        _closed({"prefix": "/"}),
    ]


def _http_routes(settings: FrontSettings, share: float, *, gateways: bool) -> list[Config]:
    limits = settings.limits
    action = _action(HTTP_SUFFIX, share, limits, _http_retries(limits))
    routes: list[Config] = [
        _public({"match": _method("path", path, "GET"), "route": action}, settings)
        for path in ("/v2/health/live", "/v2/health/ready")
    ]
    if gateways or settings.gateway_port is not None:
        gateway = action if gateways else _gateway(limits)
        routes += [
            _public({"match": _method("path", path, "GET"), "route": gateway}, settings)
            for path in PUBLIC_GATEWAY_PATHS
        ]
        routes += [{"match": {"path": path}, "route": gateway} for path in GATEWAY_PATHS]
    return [
        *routes,
        {"match": _method("safe_regex", {"regex": _READING}, "GET"), "route": action},
        {
            "match": _method("safe_regex", {"regex": f"{_MODEL}/infer"}, "POST"),
            "route": action,
        },
        {"match": _method("path", "/v2/repository/index", "POST"), "route": action},
        _closed({"prefix": "/v2"}),
        _answer({"prefix": "/"}, 404, "There is nothing at this address."),
    ]


def _action(suffix: str, share: float, limits: Limits, retries: Config) -> Config:
    """Return where inference goes: to the replicas, or by share to the canary."""
    parts = round(share * _SHARE)
    target: Config = {"cluster": REPLICAS + suffix}
    if parts:
        target = {
            "weighted_clusters": {
                "clusters": [
                    {"name": REPLICAS + suffix, "weight": _SHARE - parts},
                    {"name": CANARY + suffix, "weight": parts},
                ]
            }
        }
    return {**target, "timeout": seconds(limits.answer_seconds), "retry_policy": retries}


def _gateway(limits: Limits) -> Config:
    """Return where the requests go that the gateway answers."""
    return {
        "cluster": GATEWAY,
        # The gateway has the same limit, and tells more.
        "timeout": seconds(limits.answer_seconds + _GATEWAY_REPLY_SECONDS),
        # The gateway itself asks the replicas again; this is for one that is being restarted, which
        # takes seconds on a busy machine.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset",
            "num_retries": 25,
            "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"},
        },
    }


def _grpc_retries(limits: Limits) -> Config:
    # A model whose process died answers every request with INTERNAL.
    conditions = (
        "connect-failure,refused-stream,reset,unavailable,internal,cancelled,resource-exhausted"
    )
    return {"retry_on": conditions, **_retries(limits)}


def _http_retries(limits: Limits) -> Config:
    return {
        "retry_on": "connect-failure,refused-stream,reset,gateway-error,retriable-status-codes",
        "retriable_status_codes": [500],
        **_retries(limits),
    }


def _retries(limits: Limits) -> Config:
    return {
        "num_retries": 4,
        "per_try_timeout": seconds(limits.try_seconds),
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.5s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority."
                "previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host."
                    "previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _method(kind: str, value: object, method: str) -> Config:
    return {kind: value, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _public(route: Config, settings: FrontSettings) -> Config:
    """Return a route that needs no key: whoever asks whether a server lives has none."""
    return {**route, "typed_per_filter_config": filters.without_authentication(settings)}


def _closed(match: Config) -> Config:
    return _answer(match, 403, _CLOSED)


def _answer(match: Config, status: int, text: str) -> Config:
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": text}},
    }


def seconds(value: float) -> str:
    """Return a duration as Envoy reads it."""
    return f"{value:.3f}s"
