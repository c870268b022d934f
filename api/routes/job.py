"""GET and DELETE /v1/jobs/{id}, POST …/cancel, GET …/result"""

from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

from api import inference
from api.openapi import error_responses
from api.uploads import chunks
from shared.errors import Conflict
from shared.tasks import named

JOB = "/v1/jobs/<job_id:str>"
UNFINISHED = ("queued", "in_progress")

ID = [{"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}]
JOB_OBJECT = {"200": {"description": "The job object"}, **error_responses("404")}
CANCEL = {"summary": "Stop a job, waiting or running", "parameters": ID, "responses": JOB_OBJECT}
PATHS = {
    "/v1/jobs/{job_id}": {
        "get": {"summary": "A job and how far it is", "parameters": ID, "responses": JOB_OBJECT},
        "delete": CANCEL,
    },
    "/v1/jobs/{job_id}/cancel": {"post": CANCEL},
    "/v1/jobs/{job_id}/result": {
        "get": {
            "summary": "The answer, exactly as the synchronous call would have given it",
            "parameters": ID,
            "responses": {
                "200": {"description": "The answer; of a failed job its own error"},
                "409": {"description": "The job is not finished"},
                **error_responses("404"),
            },
        }
    },
}


def register(app: Sanic) -> None:
    app.add_route(get, JOB, methods=["GET"], name="job", ignore_body=True)
    app.add_route(cancel, JOB, methods=["DELETE"], name="job_delete", stream=True)
    app.add_route(cancel, f"{JOB}/cancel", methods=["POST"], name="job_cancel", stream=True)
    app.add_route(result, f"{JOB}/result", methods=["GET"], name="job_result", ignore_body=True)


async def get(request: Request, job_id: str) -> HTTPResponse:
    return json(await _view(request, job_id))


async def cancel(request: Request, job_id: str) -> HTTPResponse:
    async for _ in chunks(request, request.app.ctx.settings.max_json_mb):
        pass  # clients send {} or nothing
    view = await request.app.ctx.dispatch.cancel(job_id)
    request.ctx.job_id = job_id
    return json(view)


async def result(request: Request, job_id: str) -> HTTPResponse:
    dispatch = request.app.ctx.dispatch
    view = await _view(request, job_id)
    if view["status"] in UNFINISHED:
        raise Conflict(
            f"The job {job_id} is {view['status']}: there is no result yet. "
            f"Wait on GET /v1/jobs/{job_id}/events."
        )
    spec = await dispatch.spec(job_id)
    said, done = await dispatch.result(job_id)
    return await inference.answer(named(spec.task), spec, said, done)


async def _view(request: Request, job_id: str) -> dict:
    view = await request.app.ctx.dispatch.view(job_id)
    request.ctx.job_id = job_id
    return view
