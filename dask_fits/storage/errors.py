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

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gcs": {"token": "anon"}}
"""Storage options for access without credentials, by extra; the two stores name it differently."""

_PUBLIC = ("endpoint_url", "region_name", "profile", "project")
"""Storage options that are no secrets and that a message needs to be of use."""

_MIN_SECRET = 6
"""Characters. Shorter option values are words such as a region, which a message may repeat."""

_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:sig|token|key|secret|credential|pass)[^=&]*=)[^&#]*")
_USERINFO = re.compile(r"(?<=://)[^/@]*@")
_PROTOCOL = re.compile(r"(?:^|(?<=::))([A-Za-z][\w+.-]*)://")


@contextmanager
def storage_errors(url: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what any driver raises into this package's errors."""
    try:
        yield
    except FitsError:
        raise
    except Exception as error:
        raise _translated(error, url, options) from error


def status_of(error: Exception) -> int | None:
    """HTTP status that a driver's exception carries; None where it carries none."""
    found = getattr(error, "status_code", getattr(error, "status", None))
    return found if isinstance(found, int) else None


def told(error: Exception, url: str, options: Mapping[str, Any]) -> str:
    """Say what a driver's exception says, without secrets."""
    said = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    return _scrub(said.replace(url, shown(url)), options) or type(error).__name__


def shown(url: str) -> str:
    """Return a URL as it may be shown: without credentials."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("", url))


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
    status = status_of(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FitsFileNotFoundError(f"{shown(url)}: no such file")
    unsigned = type(error).__name__ == "NoCredentialsError"  # botocore's
    if isinstance(error, PermissionError) or unsigned or status in (401, 403):
        return AccessDeniedError(f"{shown(url)}: access denied{access_hint(url)}")
    if isinstance(error, ImportError):
        return MissingDriverError(_driver_hint(url, error))
    return StorageError(f"{shown(url)}: {told(error, url, options)} ({type(error).__name__})")


def _driver_hint(url: str, error: ImportError) -> str:
    protocol = protocol_of(url)
    extra = _EXTRAS.get(protocol)
    hint = f"install it with: pip install 'dask_fits[{extra}]'" if extra else str(error)
    return f"{shown(url)}: the driver for {protocol}:// is not installed; {hint}"


def _scrub(text: str, options: object) -> str:
    """Remove every string of `options` that is long enough to be a secret from `text`."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            text = text if key in _PUBLIC else _scrub(text, value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            text = _scrub(text, value)
    elif isinstance(options, str) and len(options) >= _MIN_SECRET:
        text = text.replace(options, "***")
    return text
