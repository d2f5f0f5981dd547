"""The comment of `action.yml` on a pull request: written once for a suite, then kept up to date.

Takes SUITE, REPORT (the folder of the replay's report; empty if there is none) and TOKEN from the
environment, and what GitHub sets there. It never fails the job: the verdict is the replay's.
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

MOST_CHARACTERS = 60_000
"""GitHub refuses more than 65,536."""
OWN_NAME = "github-actions[bot]"
"""Author of what a job's own token writes."""
LINKS = "- full report: "
"""Start of the summary's line with links to files beside it, which a comment has not."""


def main() -> None:
    """Write or update the comment, if the job belongs to a pull request."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text("utf-8"))
    pull_request = event.get("pull_request")
    if pull_request is None:
        print("no pull request, so no comment")
        return
    try:
        where = _publish(pull_request["number"], _body(pull_request["head"]["sha"]))
    except (HTTPError, URLError) as error:
        reason = error.code if isinstance(error, HTTPError) else error.reason
        print(
            f"::warning::pytest-divergence cannot comment on the pull request ({reason}); the job "
            "needs `permissions: pull-requests: write`, which a fork's pull request never has"
        )
        return
    print(f"comment: {where}")


def _marker() -> str:
    digest = hashlib.sha256(os.environ["SUITE"].encode("utf-8")).hexdigest()[:16]
    return f"<!-- pytest-divergence {digest} -->"


def _body(commit: str) -> str:
    server, repository, run = (
        os.environ[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
    )
    summary = Path(os.environ["REPORT"] or os.devnull) / "summary.md"
    text = "# pytest-divergence\n\n**Nothing was measured; the log of the run says why.**\n"
    if summary.is_file():
        text = _cut(summary.read_text("utf-8").splitlines())
    link = f"{server}/{repository}/actions/runs/{run}"
    return f"{_marker()}\n{text}\n[Report and log]({link}), of commit {commit[:10]}.\n"


def _cut(lines: list[str]) -> str:
    """Return the summary without links to files, and no longer than GitHub takes."""
    kept, length, is_fenced = list[str](), 0, False
    for line in lines:
        if line.startswith(LINKS):
            continue
        length += len(line) + 1
        if length > MOST_CHARACTERS:
            kept += [*(["```"] if is_fenced else []), "", "The rest is in the report."]
            break
        is_fenced ^= line.startswith("```")
        kept.append(line)
    return "\n".join(kept) + "\n"


def _publish(number: int, body: str) -> str:
    """Update the comment of this suite, or write it; return its address."""
    comments = f"repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    own = _own_name()
    for page in count(1):
        found = _ask("GET", f"{comments}/{number}/comments?per_page=100&page={page}")
        for comment in found:
            # Others may write the marker too, and could edit their comment after us.
            if comment["user"]["login"] == own and comment["body"].startswith(_marker()):
                path = f"{comments}/comments/{comment['id']}"
                return str(_ask("PATCH", path, {"body": body})["html_url"])
        if len(found) < 100:
            break
    return str(_ask("POST", f"{comments}/{number}/comments", {"body": body})["html_url"])


def _own_name() -> str:
    """Return the token's user; a job's own token may not ask."""
    try:
        return str(_ask("GET", "user")["login"])
    except HTTPError:
        return OWN_NAME


def _ask(method: str, path: str, data: object = None) -> Any:
    request = Request(
        f"{os.environ['GITHUB_API_URL']}/{path}",
        method=method,
        data=None if data is None else json.dumps(data).encode("utf-8"),
        headers={"Accept": "application/vnd.github+json", "Content-Type": "application/json"},
    )
    # Not sent on to where an answer may redirect.
    request.add_unredirected_header("Authorization", f"Bearer {os.environ['TOKEN']}")
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
