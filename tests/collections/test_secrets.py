"""What is secret in URLs and options is nowhere in a collection that is kept, shown or told of."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dask_fits
from dask_fits import Collection, FitsError
from tests.servers.origins import Asked, Told, part_of, serving
from tests.support.collections import SKY, assert_same_columns, hidden_in, image
from tests.support.traffic import SECRETS

PASSWORD = "hunter2-hunter2"
SIGNATURE = "5e3c-SIGNATURE-f00d"
TOKEN = "eyJTOKEN.secret.value"
KEY = "AKIASECRETKEY0000009"

HIDDEN = (PASSWORD, SIGNATURE, TOKEN, KEY)

QUERIES = {
    "S3": f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY}%2F20200101&X-Amz-Date=20200101T000000Z"
    f"&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}",
    "S3 with a session": f"X-Amz-Signature={SIGNATURE}&X-Amz-Security-Token={TOKEN}",
    "GCS": f"X-Goog-Signature={SIGNATURE}&X-Goog-Credential={KEY}",
    "Azure": f"sv=2020-08-04&se=2030-01-01&sr=b&sp=r&sig={SIGNATURE}",
    "CloudFront": f"Expires=1700000000&Signature={SIGNATURE}&Key-Pair-Id={KEY}",
    "token": f"token={TOKEN}",
    "access_token": f"access_token={TOKEN}&versionId=3",
    "a value alone": TOKEN,
}


def answers(asked: Asked) -> Told:
    if "missing" in asked.target:
        return Told(404)
    if "denied" in asked.target:
        return Told(403)
    if "page" in asked.target:
        return Told(200, {"ETag": '"1"'}, b"<html>no FITS</html>")
    return part_of(image({**SKY, "OBJECT": "M 13"}), asked)


def urls(port: int) -> list[str]:
    found = [
        f"http://127.0.0.1:{port}/{n}.fits?{query}" for n, query in enumerate(QUERIES.values())
    ]
    found += [f"http://me:{PASSWORD}@127.0.0.1:{port}/user.fits"]
    found += [
        f"http://127.0.0.1:{port}/{name}.fits?token={TOKEN}"
        for name in ("missing", "denied", "page")
    ]
    return [*found, f"nothere://me:{PASSWORD}@host/a.fits?sig={SIGNATURE}"]


def decoded(path: Path) -> str:
    """All that a Parquet file says: its bytes, its columns as text, and what is said of it."""
    table = pq.read_table(path)
    columns = "".join(str(column.to_pylist()) for column in table.columns)
    return path.read_bytes().decode("latin-1") + columns + str(table.schema.metadata)


OPTIONS: dict[str, Any] = {"headers": {"X-Api-Key": TOKEN}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_secrets_of_urls_are_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    with serving(answers) as origin:
        found = dask_fits.open_collection(
            urls(origin.port), keywords=["OBJECT"], storage_options=OPTIONS
        )
        assert len(found.failures) == 4
        assert found.column("OBJECT").tolist()[:9] == ["M 13"] * 9
        found.to_parquet(path)
        assert found[0].section[...].shape == (20, 30)  # the URL as it was given still is at hand
        assert found[8].section[...].shape == (20, 30)
    kept = dask_fits.open_collection(path)
    text = decoded(path)
    for secret in HIDDEN:
        assert secret not in text
    for collection in (found, kept):
        shown = [repr(collection), collection._repr_html_(), *collection.names()]
        shown += [*collection.failures, *map(str, collection.failures.values())]
        shown += [repr(error.args) for error in collection.failures.values()]
        shown += [str(source) + repr(source) for source in collection.sources()]
        shown += [str(collection.column(name).tolist()) for name in collection.colnames]
        hidden_in(HIDDEN, collection.table, shown, collection.failures)
    assert_same_columns(found, kept)


@pytest.mark.slow
def test_a_row_is_reached_again_without_its_signature_if_the_server_lets_it(tmp_path: Path) -> None:
    with serving(answers) as origin:
        found = dask_fits.open_collection(urls(origin.port)[:4])
        found.to_parquet(tmp_path / "kept.parquet")
        kept = dask_fits.open_collection(tmp_path / "kept.parquet")
        assert kept.column("access_url").tolist() == [
            f"http://127.0.0.1:{origin.port}/{n}.fits" for n in range(4)
        ]
        assert [hdu.section[0, 0] for hdu in kept] == [hdu.section[0, 0] for hdu in found]


@pytest.mark.slow
def test_what_may_say_which_file_it_is_is_not_lost_in_silence(tmp_path: Path) -> None:
    with serving(answers) as origin:
        found = dask_fits.open_collection(f"http://127.0.0.1:{origin.port}/get?id=12345678")
        found.to_parquet(tmp_path / "kept.parquet")
    kept = dask_fits.open_collection(tmp_path / "kept.parquet")
    with pytest.raises(FitsError, match="parameter"):
        kept[0]


@pytest.mark.slow
def test_options_of_then_are_not_kept_and_those_of_now_are_used(tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"

    def only_with_key(asked: Asked) -> Told:
        return answers(asked) if asked.headers.get("x-api-key") == TOKEN else Told(403)

    with serving(only_with_key) as origin:
        url = f"http://127.0.0.1:{origin.port}/a.fits"
        found = dask_fits.open_collection([url], storage_options=OPTIONS)
        found.to_parquet(path)
        assert TOKEN not in decoded(path)
        with pytest.raises(dask_fits.AccessDeniedError):
            dask_fits.open_collection(path)[0].section[...]
        kept = dask_fits.open_collection(path, storage_options=OPTIONS)
        assert (kept[0].section[...] == found[0].section[...]).all()
        hidden_in([TOKEN], kept.table, repr(kept), repr(kept[0]))


def test_secrets_of_options_are_in_no_error() -> None:
    found = dask_fits.open_collection(
        ["s3://bucket/a.fits", "nothere://b/c.fits"],
        storage_options={**SECRETS, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}},
        transfer=dask_fits.TransferConfig(attempts=1, timeout=1.0),
    )
    assert len(found.failures) == 2
    values = [value for value in SECRETS.values() if isinstance(value, str)]
    shown = [repr(found), str(found.failures), found._repr_html_()]
    hidden_in(values, found.table, shown, found.failures)


def test_a_collection_itself_can_be_sent_to_another_process_with_what_it_takes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(image(SKY))
    found = pickle.loads(pickle.dumps(dask_fits.open_collection([path])))
    assert isinstance(found, Collection)
    assert found[0].section[...].shape == (20, 30)
