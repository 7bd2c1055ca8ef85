"""Our own style sheet and script: nothing comes from elsewhere, and nothing in them is secret."""

from __future__ import annotations

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope


class Files(StaticFiles):
    """Files that a browser asks for again by ETag, so a deploy shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As Starlette's, with revalidation."""
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response
