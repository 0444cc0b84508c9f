"""`spec.storage`: where the release goes, and with whose credentials."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from llm360.spec.base import ObjectName, Section, Uri, optional, setting


class SecretRef(Section):
    """A Secret in the run's namespace."""

    name: ObjectName = setting("Name of the Secret; its keys become environment variables (AWS_ACCESS_KEY_ID …).")


class Storage(Section):
    """The release's store. Only uri belongs to the run's identity."""

    uri: Uri | None = optional(
        "Where the release goes: s3://bucket/prefix or file:///folder. One run, one address; llm360 run takes --store."
    )
    endpoint: Annotated[str, StringConstraints(max_length=1024, pattern=r"^https?://\S+$")] | None = optional(
        "Address of the S3 server, for example http://minio:9000. Unset: AWS, or AWS_ENDPOINT_URL."
    )
    region: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = optional(
        "Region of the bucket. Unset: AWS_DEFAULT_REGION."
    )
    path_style: bool = setting("Whether the bucket stands in the path (MinIO, SeaweedFS) and not in the host's name.")
    secret_ref: SecretRef | None = optional("Secret with the store's credentials. Unset: the pods' own identity.")
    service_account_name: ObjectName | None = optional(
        "Service account of the run's pods, where it carries the access to the store. Unset: the namespace's default."
    )
