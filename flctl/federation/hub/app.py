"""The hub's web application: routes, and answers to everything that goes wrong."""

from __future__ import annotations

import errno
import sqlite3

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from flctl.errors import StorageError
from flctl.federation.hub.blobs_api import BlobsApi
from flctl.federation.hub.limits import refuse_tricks
from flctl.federation.hub.members_api import MembersApi
from flctl.federation.hub.orders_api import OrdersApi
from flctl.federation.hub.post_box import PostBox
from flctl.federation.reasons import Reason, Refused

__all__ = ["build_app", "status_of"]

STATUSES: dict[Reason, int] = {
    Reason.DOOR_CERTIFICATE: 403,
    Reason.DOOR_SIGNATURE: 401,
    Reason.DOOR_REPLAY: 401,
    Reason.DOOR_CLOCK: 401,
    Reason.DOOR_EPOCH: 401,
    Reason.DOOR_RATE: 429,
    Reason.DOOR_TWICE: 409,
    Reason.ROSTER_MEMBER: 403,
    Reason.RUN_OTHER: 403,
    Reason.INVITE: 403,
    Reason.TASK_UNKNOWN: 404,
    Reason.BLOB_NAME: 404,
    Reason.REPLY_CHANGED: 409,
    Reason.BLOB_RANGE: 416,
    Reason.ENVELOPE_SIZE: 413,
    Reason.REPLY_SIZE: 413,
    Reason.BLOB_SIZE: 413,
    Reason.QUOTA: 507,
    Reason.DISK_FULL: 507,
    Reason.REQUEST_FORM: 400,
}
OTHERWISE = 422


def status_of(reason: Reason) -> int:
    """Returns the HTTP status of a refusal."""
    return STATUSES.get(reason, OTHERWISE)


def build_app(box: PostBox, metrics_token: str | None = None, *, open_metrics: bool = True) -> web.Application:
    """Returns the application of a hub. Behind a terminator all callers come from the loopback, so that the loopback
    must not open /metrics (`open_metrics=False`)."""
    app = web.Application(middlewares=[_answering(box)], client_max_size=0)
    app.on_response_prepare.append(_without_versions)
    app.add_routes(
        [
            *OrdersApi(box).routes(),
            *BlobsApi(box).routes(),
            *MembersApi(box, metrics_token, open_metrics=open_metrics).routes(),
        ]
    )
    return app


async def _without_versions(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Names no versions of libraries to callers who did not sign."""
    response.headers["Server"] = "flctl"


def _answering(box: PostBox) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            refuse_tricks(request)
            return await handler(request)
        except Refused as refused:
            return _refusal(request, refused.reason, refused.sentence, box.door.epoch)
        except web.HTTPException as error:
            return _refusal(
                request, Reason.REQUEST_FORM, f"The hub has no such resource ({error.status}).", status=error.status
            )
        except TimeoutError:
            return _refusal(request, Reason.REQUEST_FORM, "The request arrived too slowly.", status=408)
        except (StorageError, sqlite3.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            return _refusal(request, Reason.DISK_FULL, "The hub cannot write: its disk may be full.")

    return answer


def _refusal(
    request: web.Request, reason: Reason, sentence: str, epoch: str | None = None, status: int | None = None
) -> web.Response:
    response = web.json_response({"reason": reason.value, "sentence": sentence}, status=status or status_of(reason))
    if epoch is not None and reason is Reason.DOOR_EPOCH:
        response.headers["Flctl-Epoch"] = epoch
    if request.can_read_body and not request.content.is_eof():
        response.force_close()  # the rest of the body is not read
    return response
