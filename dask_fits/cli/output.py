"""What the commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from dask_fits.exceptions import printable
from dask_fits.format.listing import text_table
from dask_fits.planning.chunks import ReadPlan


def say(text: str, *, err: bool = False) -> None:
    """Print lines, on which nothing that comes out of a file steers the terminal."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def take_astropys_warnings() -> None:
    """Have astropy's warnings shown like others: it writes them to its own log, in colours."""
    from astropy import log
    from astropy.logger import LoggingError

    with suppress(LoggingError):  # it does not, or somebody else shows them
        log.disable_warnings_logging()


def print_json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    """Print JSON; a NaN must not be in it."""
    say(json.dumps(value, indent=2, allow_nan=False))


def plan_record(costs: ReadPlan) -> dict[str, Any]:
    """Give what a read costs as JSON has it."""
    return {
        "requests": costs.requests,
        "bytes": costs.bytes,
        "useful_bytes": costs.useful_bytes,
        "over_read": costs.over_read,
    }


def print_plan(costs: ReadPlan, parts: Sequence[ReadPlan] = ()) -> None:
    """Print what a read costs as a table, with a line for each of its parts."""
    rows = [_plan_row("all", costs)]
    rows += [_plan_row(f"read {n}", part) for n, part in enumerate(parts)]
    say(text_table([("", "requests", "bytes", "useful bytes", "over-read"), *rows]))


def _plan_row(label: str, costs: ReadPlan) -> tuple[str, ...]:
    return (
        *(label, str(costs.requests), str(costs.bytes), str(costs.useful_bytes)),
        f"{costs.over_read:.2f}",
    )
