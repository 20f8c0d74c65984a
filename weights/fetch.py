"""The process that downloads for `hub.py`: huggingface_hub cannot be interrupted, and a process can be ended.

Of the library the parts are used that are the same from 0.25 to 2.x; they honour its settings, retry and resume.

Nothing of the pack is imported. Standard input: a line of JSON with `path` (where Python looks for modules),
`repository`, `revision`, `files` and `folder`; then a line as the word to begin; the process ends when its input does,
so with the one that started it. Standard output, a JSON object a line: `ready`, `files` (name, size, etag; of one
commit), then `done`, or `failed` with one of the kinds of `_failure`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable

_MEMORY = 2**31  # bytes; a download takes a tenth, and an answer without end would take all there is


def _fetch(job: dict, tell: Callable[..., None]) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # Its 10 MB reach the disk, where progress is seen and a later call goes on, only when all of them are there.
    constants.DOWNLOAD_CHUNK_SIZE = 2**16
    tell(ready=True)

    def describe(name: str, revision: str):
        return get_hf_file_metadata(hf_hub_url(job["repository"], name, revision=revision))

    commit = describe(job["files"][0], job["revision"]).commit_hash or job["revision"]
    found = [(name, describe(name, commit)) for name in job["files"]]
    tell(files=[{"name": name, "size": file.size, "etag": file.etag} for name, file in found])
    if not sys.stdin.readline():
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Not hf_hub_download around it: its newer versions begin from the first byte in every process.
    for name, file in found:
        with open(os.path.join(job["folder"], unfinished(name, file.etag)), "ab") as sink:
            if sink.tell() > file.size:
                sink.truncate(0)
            url = hf_hub_url(job["repository"], name, revision=commit)
            # Any compression on the way would make a range one of compressed bytes.
            headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
            while (held := sink.tell()) < file.size:
                try:
                    http_get(url, sink, resume_size=held, headers=headers, expected_size=file.size)
                except Exception as error:
                    # Older versions give up when a connection is cut; what has come since is worth another one.
                    if sink.tell() == held or _failure(error)["failed"] != "network":
                        raise
    tell(done=True)


def unfinished(name: str, etag: str) -> str:
    """What a file is called until it is whole: versions differ in it, and no model list shows the ending."""
    return f"{name}.{etag}.partial"


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _failure(error: BaseException) -> dict:
    """offline; status: the hub's answer, a number; disk: the system's error number; wrong: what came is not what was
    announced; network: everything else. With `detail` in the library's words."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # Its first sentence, the others are advice for programmers. Signed addresses are secrets for a while.
    text = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0]
    detail = re.sub(r"\?\S*", "", text)[:300].rstrip(".")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OfflineModeIsEnabled):
            return {"failed": "offline"}
        response = getattr(cause, "response", None)
        if isinstance(cause, HfHubHTTPError) and response is not None:
            return {"failed": "status", "detail": response.status_code}
        cause = cause.__cause__ or cause.__context__
    # Errors of the network are of other classes, though many are an OSError too.
    own = type(error).__module__ == "builtins" and not isinstance(error, ConnectionError | TimeoutError)
    if own and isinstance(error, OSError) and error.errno is not None:
        return {"failed": "disk", "detail": error.errno}
    return {"failed": "wrong" if own else "network", "detail": detail}


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, OSError, ValueError):
        # Not on every system.
        pass


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr

    def tell(**answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    job = json.loads(sys.stdin.readline())
    # This folder is the first of a script's own path, and its modules would hide others.
    sys.path[:] = job["path"]
    _limit_memory()
    try:
        _fetch(job, tell)
    except Exception as error:
        tell(**_failure(error))


if __name__ == "__main__":
    main()
