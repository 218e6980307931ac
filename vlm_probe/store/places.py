"""Where a store lies: a local folder or any file system that fsspec knows. Files are written whole or not at all.

Nothing that is read here is executed or unpickled, and no name leads out of the place it is asked of. What a listing
shows may be late; whether one file is there, and what is in it, is asked by its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.store.local_place import LocalPlace
from vlm_probe.store.place import Place, safe_name
from vlm_probe.store.remote_place import CONDITIONAL, FsspecPlace

__all__ = ["FsspecPlace", "LocalPlace", "Place", "place", "safe_name"]

_PACKAGES = {"s3": "vlm-probe[s3]", "s3a": "vlm-probe[s3]", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "paramiko"}
_PACKAGES |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko", "smb": "smbprotocol"}


def place(url: str | Path | Place, *, storage_options: Mapping[str, Any] | None = None, **settings: Any) -> Place:
    """A local folder (a path, or file://), or what fsspec knows by a URL (s3://bucket/prefix, gs://, abfs://, ...).

    A place is given back. storage_options: of the file system (keys, `endpoint_url`, ...); settings: of `FsspecPlace`.
    Raises VlmProbeError where there is no such file system or a package for it is missing.
    """
    if not isinstance(url, str | Path):
        return url
    text = os.fspath(url)
    found = None if isinstance(url, Path) else re.match(r"([A-Za-z][A-Za-z0-9+.:-]*)://", text)
    protocol = found[1].lower() if found else "file"
    if "::" in protocol:
        raise VlmProbeError(f"{text} is a file system within another (or a cache of it): expected one of them alone")
    if protocol in {"file", "local"}:
        return LocalPlace(text[found.end() :] if found else text)
    options = {**(storage_options or {}), **({"use_listings_cache": False} if protocol in CONDITIONAL else {})}
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(text, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        install = f"pip install {package}" if package else first_line(error)
        raise VlmProbeError(f"{protocol}:// needs a package that is not installed: {install}") from error
    except Exception as error:
        raise VlmProbeError(f"cannot open {text}: {first_line(error)}") from error
    if protocol in CONDITIONAL and not root.strip("/"):
        raise VlmProbeError(f"{text} names no bucket: expected {protocol}://bucket/prefix")
    return FsspecPlace(fs, root, text, **settings)
