"""Options of the front, which every command that starts one shares."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from delugeserve.cli.options import check_output_file
from delugeserve.errors import UsageError
from delugeserve.serving.front.observing import collector_address
from delugeserve.serving.front.security import Jwt, Security
from delugeserve.serving.front.settings import MIB, Limits

_ACCESS, _REQUESTS = "Who may use the server", "Requests"
_DEFAULTS = Limits()


@dataclass(frozen=True)
class FrontOptions:
    """What the options of the front say.

    Attributes:
        security: TLS and authentication; :meth:`Security.check` judges the address.
        limits: limits for requests.
        access_log: file for a line of JSON per request; None writes none.
        tracing: address of a collector of traces; None sends none.
    """

    security: Security
    limits: Limits
    access_log: Path | None
    tracing: str | None


def _file(flag: str, text: str, panel: str = _ACCESS) -> Any:
    # Optional, not "| None": typer reads these at run time, on Python 3.10 too.
    return Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(flag, metavar="FILE", help=text, rich_help_panel=panel),
    ]


def _text(flag: str, metavar: str, text: str, panel: str = _ACCESS) -> Any:
    return Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(flag, metavar=metavar, help=text, rich_help_panel=panel),
    ]


# Name, type and default of each option, in the order of the help text.
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "tls_certificate": (
        _file("--tls-certificate", "Serve over TLS, with this certificate and its chain (PEM)."),
        None,
    ),
    "tls_key": (_file("--tls-key", "Private key of the certificate (PEM)."), None),
    "client_ca": (
        _file("--client-ca", "Accept only clients with a certificate of these authorities (PEM)."),
        None,
    ),
    "keys": (
        _file("--keys", "Accept only clients with a key of this file; see: delugeserve keys"),
        None,
    ),
    "jwt_issuer": (
        _text("--jwt-issuer", "NAME", "Accept only clients with a JSON Web Token of this issuer."),
        None,
    ),
    "jwt_keys": (_file("--jwt-keys", "Public keys of the issuer (a JWK set, JSON)."), None),
    "jwt_audience": (
        _text("--jwt-audience", "NAME", "Audience that the tokens must name."),
        None,
    ),
    "insecure": (
        Annotated[
            bool,
            typer.Option(
                "--insecure",
                help="Serve other machines without TLS or without knowing the clients.",
                rich_help_panel=_ACCESS,
            ),
        ],
        False,
    ),
    "rate_limit": (
        Annotated[
            Optional[float],  # noqa: UP045
            typer.Option(
                min=0.01,
                metavar="N",
                help="Requests per second that one client may send. [dim]\\[default: any][/]",
                rich_help_panel=_REQUESTS,
                show_default=False,
            ),
        ],
        None,
    ),
    "max_request_mib": (
        Annotated[
            int,
            typer.Option(
                min=1,
                max=2047,
                metavar="MIB",
                help="Largest request.",
                rich_help_panel=_REQUESTS,
            ),
        ],
        _DEFAULTS.request_bytes // MIB,
    ),
    "request_timeout": (
        Annotated[
            float,
            typer.Option(
                min=0.1,
                metavar="SECONDS",
                help="Time limit for an answer, from the end of the request.",
                rich_help_panel=_REQUESTS,
            ),
        ],
        _DEFAULTS.answer_seconds,
    ),
    "access_log": (
        _file("--access-log", "Append a line of JSON to this file for each request.", _REQUESTS),
        None,
    ),
    "tracing": (
        _text(
            "--tracing",
            "URL",
            "Send traces to this OpenTelemetry collector (gRPC), such as http://localhost:4317.",
            _REQUESTS,
        ),
        None,
    ),
}


def with_front_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the front to a command.

    Args:
        command: the command. It has a keyword argument ``front``, and gets the options there as
            one :class:`FrontOptions`.

    Returns:
        The command as typer takes it.
    """

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in _OPTIONS}
        command(**values, front=parse_front_options(**chosen))

    hints = get_type_hints(command, include_extras=True)
    del hints["front"]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "front"
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    wrapper.__annotations__ = hints | {name: kind for name, (kind, _) in _OPTIONS.items()}
    wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return wrapper


def parse_front_options(
    *,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    client_ca: Path | None = None,
    keys: Path | None = None,
    jwt_issuer: str | None = None,
    jwt_keys: Path | None = None,
    jwt_audience: str | None = None,
    insecure: bool = False,
    rate_limit: float | None = None,
    max_request_mib: int = _DEFAULTS.request_bytes // MIB,
    request_timeout: float = _DEFAULTS.answer_seconds,
    access_log: Path | None = None,
    tracing: str | None = None,
) -> FrontOptions:
    """Return what the options say.

    Raises:
        UsageError: they contradict each other, or the log cannot be written.
    """
    jwt = None
    if jwt_issuer is not None and jwt_keys is not None:
        jwt = Jwt(jwt_issuer, jwt_keys, jwt_audience)
    elif jwt_issuer is not None or jwt_keys is not None or jwt_audience is not None:
        raise UsageError(
            "JSON Web Tokens need an issuer and its public keys.",
            "Use --jwt-issuer and --jwt-keys together.",
        )
    if access_log is not None:
        check_output_file(access_log)
    if tracing is not None:
        collector_address(tracing)
    limits = Limits(
        request_bytes=max_request_mib * MIB,
        answer_seconds=request_timeout,
        try_seconds=min(_DEFAULTS.try_seconds, request_timeout),
        requests_per_second=rate_limit,
    )
    security = Security(tls_certificate, tls_key, client_ca, keys, jwt, insecure)
    return FrontOptions(security, limits, access_log, tracing)
