"""GET /docs and GET /openapi.json"""

from sanic import HTTPResponse, Request, Sanic
from sanic.response import html, json

from api import docs_page, routes
from api.openapi import document

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the page runs no script and loads nothing


def register(app: Sanic) -> None:
    app.add_route(openapi, "/openapi.json", methods=["GET"], name="openapi", ignore_body=True)
    app.add_route(docs, "/docs", methods=["GET"], name="docs", ignore_body=True)


async def openapi(request: Request) -> HTTPResponse:
    return json(document(routes.modules()))


async def docs(request: Request) -> HTTPResponse:
    page = docs_page.render(document(routes.modules()))
    return html(page, headers={"content-security-policy": POLICY})
