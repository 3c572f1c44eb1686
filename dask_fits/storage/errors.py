"""Translation of drivers' exceptions into this package's errors, which hold no secrets."""

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

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "http": "http",
    "https": "http",
}
"""Protocol -> the extra of this package that installs its driver."""

_ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gcs": {"token": "anon"}}
"""Storage options for access without credentials, by extra; the two stores name it differently."""

_BOTOCORE_CREDENTIALS = frozenset(
    (
        "CredentialRetrievalError",
        "InvalidIMDSEndpointError",
        "LoginError",
        "MetadataRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "PendingAuthorizationExpiredError",
        "RefreshWithMFAUnsupportedError",
        "SSOError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    )
)
_GOOGLE_CREDENTIALS = frozenset(("DefaultCredentialsError", "RefreshError"))

_NO_CREDENTIALS = _BOTOCORE_CREDENTIALS | _GOOGLE_CREDENTIALS
"""Names of drivers' exceptions, or of their bases: credentials are missing, or cannot be read."""

_PROTOCOL = re.compile(r"(?:^|(?<=::))([A-Za-z][\w+.-]*)://")


@contextmanager
def storage_errors(url: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever a driver raises within the block into this package's errors."""
    try:
        yield
    except FitsError as error:
        _drop_secret_causes(error, url, options)
        raise
    except MemoryError:  # it says nothing of the storage
        raise
    except Exception as error:  # noqa: BLE001 (it is raised again, as one of ours)
        # A traceback prints causes, too. The driver's exception helps to find the fault, so it is
        # kept unless it holds a secret, and its own causes are cut off at the first that does.
        cause = None if _has_secrets(error, url, options) else error
        translated = _translate(error, url, options)
        if cause:
            _drop_secret_causes(cause, url, options)
        raise translated from cause


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that a driver's exception carries; None if it carries none."""
    status = getattr(error, "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None


def describe_error(error: Exception, url: str, options: Mapping[str, Any]) -> str:
    """Return the message of a driver's exception, redacted; its type if it has none."""
    message = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    return redact_text(message, url, options) or type(error).__name__


def protocol_of(url: str) -> str:
    """Return the protocol that reaches the storage: the last of a chained URL."""
    return next(reversed(_PROTOCOL.findall(url)), "")


def anonymous_options(url: str) -> dict[str, Any] | None:
    """Return the storage options for access without credentials; None if the protocol has none."""
    return _ANONYMOUS.get(_EXTRAS.get(protocol_of(url), ""))


def access_hint(url: str) -> str:
    """Return the end of a message: how to give credentials."""
    option = anonymous_options(url)
    if _EXTRAS.get(protocol_of(url)) == "http":
        return "; give credentials with storage_options={'headers': {'Authorization': ...}}"
    if option is None:
        return ""
    return (
        "; give credentials in the environment or in storage_options, or for a public bucket "
        f"storage_options={option} (command line: --anon)"
    )


def _translate(error: Exception, url: str, options: Mapping[str, Any]) -> FitsError:
    """Build the error of this package for a driver's exception."""
    # A driver that calls back into this package may wrap one of our errors in one of its own.
    if isinstance(ours := error.__cause__, FitsError):
        return type(ours)(*ours.args)
    name = redact_url(url)
    status = status_of(error)
    if isinstance(error, FileNotFoundError) or status in MISSING:
        return FitsFileNotFoundError(f"{name}: no such file")
    # By name, since the drivers that define these classes need not be installed.
    if not _NO_CREDENTIALS.isdisjoint(cls.__name__ for cls in type(error).__mro__):
        message = f"{describe_error(error, url, options)} ({type(error).__name__})"
        return AccessDeniedError(
            f"{name}: access denied, no credentials: {message}{access_hint(url)}"
        )
    if isinstance(error, PermissionError) or status in DENIED:
        return AccessDeniedError(f"{name}: access denied{access_hint(url)}")
    if isinstance(error, ImportError):
        return MissingDriverError(_driver_hint(url, error))
    message = describe_error(error, url, options)
    return StorageError(f"{name}: {message} ({type(error).__name__})")


def _driver_hint(url: str, error: ImportError) -> str:
    """Return the message for a driver that is not installed."""
    protocol = protocol_of(url)
    extra = _EXTRAS.get(protocol)
    hint = f"install it with: pip install 'dask_fits[{extra}]'" if extra else str(error)
    return f"{redact_url(url)}: the driver for {protocol}:// is not installed; {hint}"


def _drop_secret_causes(error: BaseException, url: str, options: Mapping[str, Any]) -> None:
    """Cut an error off from the first of its causes that holds a secret, and all behind it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        if _has_secrets(cause, url, options):
            error.__cause__ = None  # this keeps the context from being printed, too
            return
        error = cause


def _has_secrets(error: BaseException, url: str, options: Mapping[str, Any]) -> bool:
    """Return whether a traceback of an error may show a secret, its causes aside."""
    message = "\n".join((str(error), *getattr(error, "__notes__", ())))
    # The members of a group are printed as well: they are not looked into one by one.
    return isinstance(error, BaseExceptionGroup) or redact_text(message, url, options) != message
