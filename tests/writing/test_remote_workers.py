"""Writes by several processes, and writes that are interrupted."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

from dask_fits import FitsError, Image
from tests.support.interrupts import interrupt
from tests.support.leftovers import requests_left
from tests.support.patience import until
from tests.support.remote_targets import GcsTarget, Target, check_content, write

both_stores = pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
A_PART = {"s3": (r"partNumber=2$", 1), "gcs": (r"^POST /upload/", 2)}


def images_for(target: Target) -> list[Image]:
    """Two images, for two processes: each is one band of the file."""
    return [Image(target.lazy), Image(target.lazy * 2)]


def check_images(target: Target) -> None:
    check_content(target, target.pixels, target.pixels * 2)
    assert target.left() == []


def hold_a_part(target: Any) -> None:
    match, first = A_PART["gcs" if isinstance(target, GcsTarget) else "s3"]
    target.proxy.fail("hold", match, first=first)


@both_stores
def test_two_processes(target: Target, client: Client) -> None:
    with client.as_current():
        write(target, images_for(target))
        check_images(target)
        write(target, images_for(target), overwrite=True, compute=False).compute()
        check_images(target)


@both_stores
def test_a_worker_that_is_killed_while_it_uploads(target: Any, client: Client) -> None:
    def attempt() -> None:
        with client.as_current():
            write(target, images_for(target))

    hold_a_part(target)
    pids = client.run(os.getpid)
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(attempt)
        until(lambda: target.proxy.held == 1)
        busy = [address for address, keys in client.processing().items() if keys]
        for address in busy:
            os.kill(pids[address], signal.SIGKILL)
        until(lambda: not set(busy) & set(client.scheduler_info()["workers"]))
        target.proxy.heal()
        try:
            writing.result()
        except FitsError:
            assert target.content() is None
            assert target.left() == []
        else:
            check_images(target)


@both_stores
@pytest.mark.parametrize("scheduler", ["threads", "sync"])
@pytest.mark.parametrize("is_completion", [False, True])
def test_ctrl_c(target: Any, scheduler: str, is_completion: bool) -> None:
    if is_completion:
        target.proxy.fail("hold", target.completes)
    else:
        hold_a_part(target)
    with dask.config.set(scheduler=scheduler):
        interrupt(lambda: write(target, target.lazy), lambda: target.proxy.held == 1)
    target.proxy.heal()
    until(lambda: not requests_left())
    assert (target.content(), target.left()) == (None, [])
    write(target, target.lazy)
    check_content(target, target.pixels)
    assert target.left() == []


@both_stores
def test_ctrl_c_while_workers_go_on(target: Any, client: Client) -> None:
    """A part that was on its way comes after the upload was removed, and does not stay."""
    hold_a_part(target)
    with client.as_current():
        interrupt(lambda: write(target, images_for(target)), lambda: target.proxy.held == 1)
    # What the other worker had on its way is removed by that one.
    until(lambda: target.left() == [])
    target.proxy.heal()
    until(lambda: not any(client.processing().values()))
    until(lambda: target.proxy.busy == 0 and target.left() == [])
    assert target.content() is None
    assert np.array_equal(target.lazy[:3].compute(), target.pixels[:3])
