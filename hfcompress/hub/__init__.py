"""The Hub, through `huggingface_hub` alone: what a name stands for, the download that is verified, and the push."""

from hfcompress.hub.descriptions import absent_bytes, described
from hfcompress.hub.pull import (
    Source,
    content_revision,
    download_all,
    download_weights,
    drop_damaged,
    resolve_dataset,
    resolve_model,
)
from hfcompress.hub.push import FileChange, Pushed, PushPlan, full_name, plan_push, push_folder, require_access
from hfcompress.hub.retries import repeated

__all__ = [
    "FileChange",
    "PushPlan",
    "Pushed",
    "Source",
    "absent_bytes",
    "content_revision",
    "described",
    "download_all",
    "download_weights",
    "drop_damaged",
    "full_name",
    "plan_push",
    "push_folder",
    "repeated",
    "require_access",
    "resolve_dataset",
    "resolve_model",
]
