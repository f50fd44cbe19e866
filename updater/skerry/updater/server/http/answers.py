"""Answers in JSON; errors as `{"error", "problem", "where", "remedy", "exit_code"}`."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from skerry.devices.errors import (
    BundleError,
    ExitCode,
    QuotaError,
    SkerryError,
    TrustError,
    UnavailableError,
)

__all__ = ["answer", "answer_error", "install_errors"]

_LOG = logging.getLogger(__name__)
_EXIT_CODES = {
    400: ExitCode.BAD_INPUT,
    401: ExitCode.TRUST_REFUSED,
    403: ExitCode.TRUST_REFUSED,
    404: ExitCode.BAD_INPUT,
}


def answer(value: Any, status: int = 200) -> Response:
    """`value` (anything msgspec encodes) as JSON, not to be kept by caches."""
    body = msgspec.json.encode(value)
    headers = {"Cache-Control": "no-store"}
    return Response(body, status, headers=headers, media_type="application/json")


def answer_error(status: int, error: SkerryError | str, exit_code: int | None = None) -> Response:
    """An error as JSON."""
    if isinstance(error, str):
        code = exit_code if exit_code is not None else _EXIT_CODES.get(status, ExitCode.BAD_INPUT)
        document = {"error": error, "problem": error, "where": None, "remedy": None}
    else:
        code = error.exit_code
        document = {
            "error": str(error),
            "problem": error.problem,
            "where": error.where,
            "remedy": error.remedy,
        }
    response = answer({**document, "exit_code": int(code)}, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        response.headers["Retry-After"] = "2"
    return response


def _status(error: SkerryError) -> int:
    match error:
        case TrustError():
            return 403
        case BundleError():
            return 422
        case QuotaError():
            return 413
        case UnavailableError():
            return 503
    return 422 if error.exit_code == ExitCode.BAD_INPUT else 500


def install_errors(app: FastAPI) -> None:
    """Let every error leave `app` in the one shape, and none with its traceback."""

    @app.exception_handler(SkerryError)
    def refused(_: Request, error: SkerryError) -> Response:
        return answer_error(_status(error), error)

    @app.exception_handler(HTTPException)
    def http_error(_: Request, error: HTTPException) -> Response:
        said: SkerryError | str = str(error.detail)
        if isinstance(error.__cause__, SkerryError) and str(error.__cause__) == said:
            said = error.__cause__
        response = answer_error(error.status_code, said)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(LookupError)
    def missing(request: Request, error: LookupError) -> Response:
        if isinstance(error, KeyError | IndexError):
            return bug(request, error)
        return answer_error(404, str(error))

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> Response:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer_error(500, "this is a bug in the server; its log says more", ExitCode.BUG)
