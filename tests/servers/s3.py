"""An S3 server (moto) that checks credentials, with a private, a public and a versioned bucket."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from tests.servers.process import serve_until_told, server_process

PRIVATE = "private-images"
"""The bucket that needs the credentials."""

PUBLIC = "public-images"
"""The bucket that anybody may read."""

VERSIONED = "versioned-images"
"""The bucket that needs the credentials, and keeps what is replaced."""

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server. Signed requests with other credentials are refused (403), and so are
    unsigned ones, except for reading `PUBLIC`.

    ETag is the MD5 of the content, the same for the same content; If-Match and If-Unmodified-Since
    are honoured (412).

    moto copies a whole object for each range of it: keep objects under a few megabytes.
    """

    endpoint: str
    """``http://127.0.0.1:<port>``"""
    key: str
    """The access key that may do anything."""
    secret: str = field(repr=False)

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options of s3fs with the credentials."""
        return {"key": self.key, "secret": self.secret, **self._place}

    @property
    def anonymous_options(self) -> dict[str, Any]:
        """Options of s3fs without credentials."""
        return {"anon": True, **self._place}

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for botocore, with the credentials."""
        credentials = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return {**self.anonymous_environment, **credentials}

    @property
    def anonymous_environment(self) -> dict[str, str]:
        """Environment variables for botocore that hide every credential of this machine."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def put(
        self, name: str, content: bytes, *, bucket: str = PRIVATE, encoding: str | None = None
    ) -> str:
        """Store an object, replacing one of the same name; return its ``s3://`` URL.

        `encoding` is the Content-Encoding that it is served with.
        """
        client = _client("s3", self.endpoint, self.key, self.secret)
        acl = "public-read" if bucket == PUBLIC else "private"
        more = {"ContentEncoding": encoding} if encoding else {}
        client.put_object(Bucket=bucket, Key=name, Body=content, ACL=acl, **more)
        client.close()
        return f"s3://{bucket}/{name}"

    def versions(self, name: str) -> list[str]:
        """The ids of all versions of an object in `VERSIONED`, the oldest first."""
        client = _client("s3", self.endpoint, self.key, self.secret)
        found = client.list_object_versions(Bucket=VERSIONED, Prefix=name).get("Versions", [])
        client.close()
        return [one["VersionId"] for one in reversed(found) if one["Key"] == name]

    @property
    def _place(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint, "client_kwargs": {"region_name": REGION}}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server with three empty buckets while the ``with`` block runs."""
    with server_process(__name__) as said:
        yield S3Server(**said)


def _client(service: str, endpoint: str, key: str, secret: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(proxies={}),
    )


def _refuse_unsigned() -> None:
    """Teach moto, which fails on a request without a signature, whom it may serve."""
    from moto.core.responses import ActionAuthenticatorMixin
    from moto.s3.exceptions import BucketAccessDeniedError

    check = ActionAuthenticatorMixin._authenticate_and_authorize_s3_action

    def authorize(self: Any, bucket_name: str | None = None, key_name: str | None = None) -> None:
        if "Authorization" in self.headers:
            check(self, bucket_name, key_name)
        elif bucket_name != PUBLIC or self.method not in ("GET", "HEAD"):
            raise BucketAccessDeniedError(bucket=bucket_name or "")

    ActionAuthenticatorMixin._authenticate_and_authorize_s3_action = authorize


def _main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    s3 = _client("s3", endpoint, "any", "any")
    for bucket in (PRIVATE, PUBLIC, VERSIONED):
        s3.create_bucket(Bucket=bucket)
    keep = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration=keep)
    iam = _client("iam", endpoint, "any", "any")
    iam.create_user(UserName="astronomer")
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": everything})
    iam.put_user_policy(UserName="astronomer", PolicyName="s3", PolicyDocument=policy)
    made = iam.create_access_key(UserName="astronomer")["AccessKey"]
    _refuse_unsigned()
    plain = {"Content-Type": "text/plain"}
    urlopen(Request(f"{endpoint}/moto-api/reset-auth", b"0", plain)).close()  # check from now on
    serve_until_told(endpoint=endpoint, key=made["AccessKeyId"], secret=made["SecretAccessKey"])
    server.stop()


if __name__ == "__main__":
    _main()
