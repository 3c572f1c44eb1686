"""What drivers raise -> this package's errors, which name the file and hold no secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dask_fits.exceptions import (
    AccessDeniedError,
    FitsError,
    FitsFileNotFoundError,
    MissingDriverError,
    StorageError,
)
from dask_fits.storage.redaction import redact_text, redact_url
from dask_fits.storage.response import DENIED, MISSING

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gcs": {"token": "anon"}}
"""Storage options for access without credentials, by extra; the two stores name it differently."""

_NO_CREDENTIALS = frozenset(
    (
        # of botocore
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
        *("NoAuthTokenError", "TokenRetrievalError", "SSOTokenLoadError", "SSOError"),
        *("UnauthorizedSSOTokenError", "PendingAuthorizationExpiredError", "LoginError"),
        *("RefreshWithMFAUnsupportedError", "InvalidIMDSEndpointError", "MetadataRetrievalError"),
        # of google-auth
        *("DefaultCredentialsError", "RefreshError"),
    )
)
"""Names of drivers' exceptions, or of their bases: credentials are missing, or cannot be had."""

_PROTOCOL = re.compile(r"(?:^|(?<=::))([A-Za-z][\w+.-]*)://")


@contextmanager
def storage_errors(url: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what any driver raises into this package's errors."""
    try:
        yield
    except FitsError as error:
        _drop_telling_causes(error, url, options)
        raise
    except Exception as error:  # noqa: BLE001 (it goes on as one of ours)
        cause = None if _tells_secrets(error, url, options) else error
        failed = _translated(error, url, options)
        if cause:
            _drop_telling_causes(cause, url, options)
        raise failed from cause


def status_of(error: Exception) -> int | None:
    """HTTP status that a driver's exception carries; None where it carries none."""
    found = getattr(error, "status_code", getattr(error, "status", None))
    return found if isinstance(found, int) else None


def describe(error: Exception, url: str, options: Mapping[str, Any]) -> str:
    """Say what a driver's exception says, without secrets."""
    said = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    return redact_text(said, url, options) or type(error).__name__


def protocol_of(url: str) -> str:
    """Name the protocol that reaches the storage: the last of a chained URL."""
    return next(reversed(_PROTOCOL.findall(url)), "")


def anonymous_options(url: str) -> dict[str, Any] | None:
    """Storage options for access without credentials; None where there is no such thing."""
    return _ANONYMOUS.get(_EXTRAS.get(protocol_of(url), ""))


def access_hint(url: str) -> str:
    """Say how to be let in."""
    option = anonymous_options(url)
    if _EXTRAS.get(protocol_of(url)) == "http":
        return "; give credentials with storage_options={'headers': {'Authorization': ...}}"
    if option is None:
        return ""
    return (
        "; give credentials in the environment or in storage_options, or for a public bucket "
        f"storage_options={option} (command line: --anon)"
    )


def _translated(error: Exception, url: str, options: Mapping[str, Any]) -> FitsError:
    if isinstance(ours := error.__cause__, FitsError):  # which a driver has put into one of its own
        return type(ours)(*ours.args)
    status = status_of(error)
    if isinstance(error, FileNotFoundError) or status in MISSING:
        return FitsFileNotFoundError(f"{redact_url(url)}: no such file")
    if not _NO_CREDENTIALS.isdisjoint(cls.__name__ for cls in type(error).__mro__):
        said = f"{describe(error, url, options)} ({type(error).__name__})"
        return AccessDeniedError(
            f"{redact_url(url)}: access denied, no credentials: {said}{access_hint(url)}"
        )
    if isinstance(error, PermissionError) or status in DENIED:
        return AccessDeniedError(f"{redact_url(url)}: access denied{access_hint(url)}")
    if isinstance(error, ImportError):
        return MissingDriverError(_driver_hint(url, error))
    return StorageError(
        f"{redact_url(url)}: {describe(error, url, options)} ({type(error).__name__})"
    )


def _driver_hint(url: str, error: ImportError) -> str:
    protocol = protocol_of(url)
    extra = _EXTRAS.get(protocol)
    hint = f"install it with: pip install 'dask_fits[{extra}]'" if extra else str(error)
    return f"{redact_url(url)}: the driver for {protocol}:// is not installed; {hint}"


def _drop_telling_causes(error: BaseException, url: str, options: Mapping[str, Any]) -> None:
    """Cut an error off from the first of its causes that says a secret: a traceback prints them."""
    while (cause := error.__cause__ or error.__context__) is not None:
        if _tells_secrets(cause, url, options):
            error.__cause__ = None  # which keeps the context from being printed, too
            return
        error = cause


def _tells_secrets(error: BaseException, url: str, options: Mapping[str, Any]) -> bool:
    said = "\n".join((str(error), *getattr(error, "__notes__", ())))
    return isinstance(error, BaseExceptionGroup) or redact_text(said, url, options) != said
