"""What schemathesis is to know of the API beyond its document (check-api.sh loads this).

- Some ids that are valid in form become that of a sandbox that is there: random ones only ever meet 404.
- A part named file comes last in forms, because what follows it would have to be kept in memory until then.
- 16.0 is an integer for JSON Schema, and for nobody who writes clients.
- An upload of an archive, or of a part of a file, is bytes.
- A wait is for what is there already, and an upload for what fits: one that is over its time is 504 and one without
  room 507, which is right and yet counts as a failure.
- What a request makes is deleted at once: a full host would answer 503, which is right and yet counts as a failure.
"""

import os
import re
import urllib.parse

import requests
import schemathesis

SANDBOX = os.environ["WRENN_API_SANDBOX"]
WEBHOOK = os.environ["WRENN_API_WEBHOOK"]
ID = re.compile(r"sb-[a-z0-9]{20}")
WEBHOOK_ID = re.compile(r"wh-[0-9a-f]{16}")
STATUSES = {"pending", "running", "paused", "stopped", "error"}
calls = 0


@schemathesis.hook
def before_call(context, case, kwargs):
    global calls
    calls += 1
    # One in five, since what reaches a guest takes its time; and whatever deletes sandboxes only meets strangers.
    is_ours = calls % 5 == 0 and case.method.upper() != "DELETE"
    # A copy: cases share their parameters, and the next ones would be ours as well.
    path = dict(case.path_parameters or {})
    if is_ours and isinstance(path.get("id"), str) and ID.fullmatch(path["id"]):
        path["id"] = SANDBOX
        case.path_parameters = path
    if is_ours and isinstance(path.get("webhook"), str) and WEBHOOK_ID.fullmatch(path["webhook"]):
        path["webhook"] = WEBHOOK
        case.path_parameters = path
    if path.get("webhook") == WEBHOOK and case.method.upper() == "DELETE":
        case.path_parameters = {**path, "webhook": "wh-" + "0" * 16}
    if path.get("id") == SANDBOX and case.method.upper() == "DELETE":
        # It remembers ids that were answered well.
        case.path_parameters = {**path, "id": "sb-" + "0" * 20}
    if path.get("id") == SANDBOX and case.query:
        # This would not end before the sandbox does.
        case.query = {name: value for name, value in case.query.items() if name != "follow"}
    if path.get("id") == SANDBOX and case.path.endswith("/wait") and case.query:
        case.query = answered_at_once(case.query)
    if path.get("id") == SANDBOX and case.path.endswith("/files/uploads") and case.headers:
        length = str(case.headers.get("Upload-Length", ""))
        if re.fullmatch("[0-9]+", length) and 1 << 20 < int(length) < 1 << 63:
            case.headers["Upload-Length"] = str(1 << 20)
    if path.get("id") == SANDBOX and case.path.endswith("/fork") and isinstance(case.body, dict):
        # More than the small server has room for would be 503.
        if isinstance(case.body.get("count"), (int, float)) and 1 < case.body["count"] <= 32:
            case.body["count"] = 1
    if isinstance(case.body, dict):
        if "multipart" in (case.media_type or "") and "file" in case.body:
            case.body["file"] = case.body.pop("file")
        elif "json" in (case.media_type or ""):
            case.body = integers(case.body)
            # A program that is too slow for its own limit is 504, which is right and yet counts as a failure.
            limit = case.body.get("timeout_sec")
            if isinstance(limit, int) and 0 < limit < 30:
                case.body["timeout_sec"] = 30


@schemathesis.hook
def after_call(context, case, response):
    if case.method.upper() != "POST" or response.status_code != 201:
        return
    sent = response.request
    server = sent.url.split("/v1/")[0]
    if case.path in ("/v1/sandboxes", "/v1/sandboxes/{id}/fork"):
        made = response.json() if isinstance(response.json(), list) else [response.json()]
        urls = [f"{server}/v1/sandboxes/{sandbox['id']}" for sandbox in made]
    elif case.path == "/v1/webhooks":
        urls = [f"{server}/v1/webhooks/{response.json()['id']}"]
    elif case.path == "/v1/snapshots":
        urls = [f"{server}/v1/snapshots/{response.json()['name']}"]
    elif case.path == "/v1/sandboxes/{id}/files/uploads":
        urls = [urllib.parse.urljoin(sent.url, response.headers["location"][0])]
    elif case.path == "/v1/sandboxes/{id}/checkpoints":
        urls = [f"{sent.url.split('?')[0]}/{response.json()['name']}"]
    else:
        return
    for url in urls:
        headers = {"X-API-Key": sent.headers["X-API-Key"], "Tus-Resumable": "1.0.0"}
        requests.delete(url, headers=headers, timeout=120)


def answered_at_once(query):
    """Returns the query of a wait that a running sandbox answers at once; of the same form if it is wrong."""
    given = query.get("status", [])
    given = given if isinstance(given, list) else [given]
    waits = given or str(query.get("deleted", "")).lower() == "true"
    if waits and set(map(str, given)) <= STATUSES:
        return {**query, "status": "running"}
    return query


def integers(value):
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [integers(item) for item in value]
    return value


@schemathesis.serializer("application/x-tar", "application/offset+octet-stream")
def encode(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
