"""Requests that are no messages, and how their rpcs end. Knows no method and no message."""

from expertmesh.rpc.handlers import Handler, HandlerInterceptor, decode_inside


class DecodedRequests(HandlerInterceptor):
    """Decodes requests, as the last of the interceptors: the others see bytes."""

    def change(self, handler: Handler, method: str) -> Handler:  # noqa: D102
        if handler is None or handler.request_deserializer is None:
            return handler
        return decode_inside(handler, method)
