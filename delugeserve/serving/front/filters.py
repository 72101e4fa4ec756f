"""Envoy's HTTP filters: what a request passes before it is sent to a replica."""

from __future__ import annotations

from delugeserve.serving.front.clusters import Config, script, typed
from delugeserve.serving.front.security import Jwt
from delugeserve.serving.front.settings import FrontSettings, Limits

#: The header that tells who the client is. A client cannot set it.
CLIENT_ID = "x-client-id"
IDENTITY = "delugeserve.identity"
GUARD = "delugeserve.guard"
TOKENS = "envoy.filters.http.jwt_authn"
_LUA_PER_ROUTE = "envoy.extensions.filters.http.lua.v3.LuaPerRoute"
_GRPC_STATS = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"
_BUFFER = "envoy.extensions.filters.http.buffer.v3.Buffer"
_JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_JWT_PER_ROUTE = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
_ISSUER = "issuer"
_RATE_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_MOST_CLIENTS = (
    10_000  # whose rates are counted; then the one that was seen longest ago is forgotten
)
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def public_filters(settings: FrontSettings) -> list[Config]:
    """Return the filters for requests of clients, in their order.

    Authentication comes first: the body of a request without a key is not kept. The whole body is
    kept before a replica gets the request, so that the request can be retried and a slow client
    occupies no replica.
    """
    filters = []
    if settings.security.keys is not None:
        filters.append(script(IDENTITY, "sha256", "refuse", "identity"))
    if settings.security.jwt is not None:
        filters.append(_tokens(settings.security.jwt))
    if settings.limits.requests_per_second is not None:
        filters.append(_rate_limit(settings))
    return [
        grpc_statistics(),
        *filters,
        buffer(settings.limits),
        script(GUARD, "refuse", "guard"),
        router(),
    ]


def internal_filters(settings: FrontSettings) -> list[Config]:
    """Return the filters for requests of the gateway."""
    return [grpc_statistics(), buffer(settings.limits), router()]


def script_values(settings: FrontSettings) -> Config:
    """Return the part of a route's configuration that the scripts read their values from."""
    limits, keys = settings.limits, settings.security.keys
    values: dict[str, Config] = {
        GUARD: {"json_bytes": limits.json_bytes, "json_depth": limits.json_depth}
    }
    if keys is not None:
        values[IDENTITY] = {"keys": str(keys.absolute())}
    return {
        name: typed(_LUA_PER_ROUTE, {"filter_context": context}) for name, context in values.items()
    }


def without_authentication(settings: FrontSettings) -> Config:
    """Return the part of a route's configuration that asks for no key and no token."""
    found: Config = {}
    if settings.security.keys is not None:
        found[IDENTITY] = typed(_LUA_PER_ROUTE, {"disabled": True})
    if settings.security.jwt is not None:
        found[TOKENS] = typed(_JWT_PER_ROUTE, {"disabled": True})
    return found


def buffer(limits: Limits) -> Config:
    """Return the filter that keeps a whole request, and refuses one that is too large."""
    return http_filter("envoy.filters.http.buffer", _BUFFER, max_request_bytes=limits.request_bytes)


def grpc_statistics() -> Config:
    """Return the filter that counts answers by gRPC status; their HTTP status is always 200."""
    return http_filter("envoy.filters.http.grpc_stats", _GRPC_STATS, stats_for_all_methods=False)


def router() -> Config:
    """Return the last filter, which sends the request to a replica."""
    return http_filter("envoy.filters.http.router", _ROUTER, suppress_envoy_headers=True)


def http_filter(name: str, message: str, **fields: object) -> Config:
    """Return an HTTP filter with its configuration."""
    return {"name": name, "typed_config": typed(message, fields)}


def _tokens(jwt: Jwt) -> Config:
    """Return the filter that checks JSON Web Tokens; the token's subject is the client's name."""
    provider: Config = {
        "issuer": jwt.issuer,
        "local_jwks": {"filename": str(jwt.jwks)},
        "claim_to_headers": [{"header_name": CLIENT_ID, "claim_name": "sub"}],
    }
    if jwt.audience is not None:
        provider["audiences"] = [jwt.audience]
    return http_filter(
        TOKENS,
        _JWT,
        providers={_ISSUER: provider},
        requirement_map={_ISSUER: {"provider_name": _ISSUER}},
        rules=[{"match": {"prefix": "/"}, "requirement_name": _ISSUER}],
    )


def _rate_limit(settings: FrontSettings) -> Config:
    """Return the filter that counts the requests of each client.

    A client is the owner of a key or certificate; without authentication, an address.
    """
    limits = settings.limits
    if settings.security.authenticates:
        key = "client"
        action: Config = {"request_headers": {"header_name": CLIENT_ID, "descriptor_key": key}}
    else:
        key = "remote_address"
        action = {key: {}}
    rate = limits.requests_per_second or 0.0
    # Tokens are whole numbers, and a tenth of a second keeps low rates smooth.
    interval = 0.1 if rate >= 10 else 1.0 / rate if rate < 1 else 1.0
    tokens = max(1, round(rate * interval))
    return http_filter(
        "envoy.filters.http.local_ratelimit",
        _RATE_LIMIT,
        stat_prefix="rate_limit",
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limited_as_resource_exhausted=True,
        rate_limits=[{"actions": [action]}],
        # What no client is known for, such as health checks, is not limited.
        token_bucket=_bucket(1_000_000_000, 1_000_000_000, interval),
        always_consume_default_token_bucket=False,
        max_dynamic_descriptors=_MOST_CLIENTS,
        descriptors=[
            {
                # No value: each value has a bucket of its own.
                "entries": [{"key": key}],
                "token_bucket": _bucket(max(limits.burst, tokens), tokens, interval),
            }
        ],
    )


def _bucket(most: int, tokens: int, interval: float) -> Config:
    return {
        "max_tokens": most,
        "tokens_per_fill": tokens,
        "fill_interval": f"{interval:.3f}s",
    }
