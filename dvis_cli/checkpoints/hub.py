"""The Hugging Face hub's index, through `huggingface_hub`: what a repository holds, with sizes and checksums.

The bytes come through `download.py` like any other file's. `HF_ENDPOINT` and `HF_TOKEN` are followed as usual.
"""

from __future__ import annotations

import fnmatch
import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import Any

from dvis_cli.errors import CheckpointError, UsageError

from .download import RemoteFile, RetryError, check_address, patiently, raise_for_status, refuse_offline
from .hf_folder import INDEX_FILES, WEIGHT_FILES

_SAFE = re.compile(r"[A-Za-z0-9][\w.+-]{0,199}", re.ASCII)
_COMPANIONS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    path: str  # in the repository
    size: int | None  # bytes
    sha256: str | None  # of files that are stored as such (LFS, Xet); small ones have none


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]

    def remote(self, file: HubFile) -> RemoteFile:
        """How to fetch a file. Raises `CheckpointError` where its name is none for a folder of ours."""
        name = file.path.rsplit("/", 1)[-1]
        if not _SAFE.fullmatch(name):
            raise CheckpointError(f"{self.repo} names a file {file.path[:200]!r}, which is refused")
        address = f"{_endpoint()}/{self.repo}/resolve/{self.commit}/{urllib.parse.quote(file.path)}"
        return RemoteFile(name, address, file.size, file.sha256, headers=_headers())


def repository(repo: str) -> Repository:
    """List a repository.

    Raises:
        UsageError: huggingface_hub is not installed, or `DVIS_OFFLINE` is set.
        CheckpointError: it is not there, wants a login, or cannot be reached.
    """
    refuse_offline(f"asking the hub for {repo}")
    endpoint = _endpoint()
    address = f"{endpoint}/{repo}"
    api = _library().HfApi(endpoint=endpoint, library_name="dvis")
    found = patiently(lambda: _asked(api, repo, address), address)
    files = []
    for one in found.siblings or ():
        lfs = one.lfs or {}
        sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise CheckpointError(
                f"{address}: the checksum {sha256[:80]!r} of {one.rfilename[:80]!r} is none"
            )
        files.append(HubFile(one.rfilename, one.size, sha256))
    commit = str(found.sha or "main")
    if not re.fullmatch(r"[0-9a-f]{40}|main", commit):
        raise CheckpointError(f"{address}: {commit[:80]!r} is no commit")
    return Repository(repo, commit, tuple(files))


def _asked(api: Any, repo: str, address: str) -> Any:
    try:
        return api.model_info(repo, files_metadata=True, timeout=30)
    except Exception as error:  # the library's errors are several HTTP libraries'
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            if type(error).__name__ == "GatedRepoError":
                status = 403
            raise_for_status(status, address)
        if type(error).__name__ == "OfflineModeIsEnabled":
            raise UsageError("HF_HUB_OFFLINE is set: unset it, or use what is installed") from None
        first = (str(error).splitlines() or [""])[0][:200]
        raise RetryError(f"no connection ({type(error).__name__}: {first})") from None


def matching(repository: Repository, patterns: tuple[str, ...]) -> list[HubFile]:
    """The files whose path matches all patterns, case apart; weight files only."""
    return [
        file
        for file in repository.files
        if file.path.endswith((".pth", ".pt", ".pkl", ".bin", ".safetensors"))
        and all(fnmatch.fnmatchcase(file.path.lower(), pattern.lower()) for pattern in patterns)
    ]


def folder_files(repository: Repository) -> list[HubFile]:
    """What a folder of transformers is made of: its configuration, and weights in the safest of the forms there.

    Raises:
        CheckpointError: one of them is missing.
    """
    by_path = {file.path: file for file in repository.files}
    weights = [by_path[name] for name in WEIGHT_FILES if name in by_path][:1]
    if not weights:
        for index in INDEX_FILES:
            if index in by_path:
                shard = index.removesuffix(".index.json").replace(".", r"-\d{5}-of-\d{5}\.")
                weights = [by_path[index], *(f for f in repository.files if re.fullmatch(shard, f.path))]
                break
    if not weights or "config.json" not in by_path:
        raise CheckpointError(
            f"{repository.repo} is no folder of transformers: it has {', '.join(list(by_path)[:8]) or 'no files'}"
        )
    return [*(by_path[name] for name in _COMPANIONS if name in by_path), *weights]


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    check_address(endpoint)
    return endpoint


def _headers() -> dict[str, str]:
    headers = _library().utils.build_hf_headers(library_name="dvis")
    return {key: value for key, value in headers.items() if key.lower() == "authorization"}


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            "the hub needs huggingface_hub, which is not installed: pip install 'dvis[hub]'"
        ) from None
    return huggingface_hub
