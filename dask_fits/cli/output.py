"""Printing of results as text, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from dask_fits._typing import Progress
from dask_fits.exceptions import printable
from dask_fits.format.listing import text_table
from dask_fits.planning.chunks import ReadPlan

_MAX_REASONS = 20
"""Reasons of failures that are printed at most."""


def say(text: str, *, err: bool = False) -> None:
    """Print lines; control characters, which may come from a file, are escaped."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def show_astropy_warnings() -> None:
    """Have astropy's warnings shown like others, and not written to its own log in colours."""
    from astropy import log
    from astropy.logger import LoggingError

    with suppress(LoggingError):  # astropy does not log them, or others have replaced the hook
        log.disable_warnings_logging()


def print_json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    """Print JSON; raise ValueError if it contains a NaN or an infinity."""
    say(json.dumps(value, indent=2, allow_nan=False))


def print_reasons(reasons: Collection[object], *, rest: str) -> None:
    """Print the first reasons of failures; `rest` says what those are that are not printed."""
    for reason in [*reasons][:_MAX_REASONS]:
        say(f"  {' '.join(str(reason).split())}", err=True)
    if len(reasons) > _MAX_REASONS:
        say(f"  and {len(reasons) - _MAX_REASONS} {rest}", err=True)


def plan_record(costs: ReadPlan) -> dict[str, Any]:
    """Return the cost of a read as a dict."""
    return {
        "requests": costs.requests,
        "bytes": costs.bytes,
        "useful_bytes": costs.useful_bytes,
        "over_read": costs.over_read,
        **({"packing": costs.packing, "by_index": costs.by_index} if costs.packing else {}),
    }


def print_plan(costs: ReadPlan, parts: Sequence[ReadPlan] = ()) -> None:
    """Print the cost of a read as a table, with a line for each of its parts."""
    rows = [_plan_row("all", costs)]
    rows += [_plan_row(f"read {index}", part) for index, part in enumerate(parts)]
    say(text_table([("", "requests", "bytes", "useful bytes", "over-read"), *rows]))
    if costs.packing:
        index = "with" if costs.by_index else "without"
        say(f"compressed as a whole: {costs.packing}, {index} an index; the bytes are packed ones")


def _plan_row(label: str, costs: ReadPlan) -> tuple[str, ...]:
    return (
        label,
        str(costs.requests),
        str(costs.bytes),
        str(costs.useful_bytes),
        f"{costs.over_read:.2f}",
    )


@contextmanager
def progress_bar(label: str) -> Iterator[Progress | None]:
    """Show a progress bar if standard error is a terminal; yields what updates it, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def update(done: int, count: int) -> None:
            bar.length = count
            bar.update(done - bar.pos)

        yield update
