"""Owns binding handlers to a protobuf service by name; must not know what any RPC means.

No generated base class: a method that nobody handles answers UNIMPLEMENTED with its name, so that a client of another
version fails loudly and says what it wanted.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

Gate = Callable[[str, Mapping[str, Any]], None]
_CARDINALITIES = {
    (False, False): Cardinality.UNARY_UNARY,
    (False, True): Cardinality.UNARY_STREAM,
    (True, False): Cardinality.STREAM_UNARY,
    (True, True): Cardinality.STREAM_STREAM,
}


class Service:
    """A grpclib service. `methods` has an `async def` or an async generator per RPC, under the RPC's own name; `gate`
    sees every call first and may raise.
    """

    def __init__(self, descriptor: ServiceDescriptor, methods: object, gate: Gate, calls: "Counter[str]") -> None:
        self._descriptor = descriptor
        self._methods = methods
        self._gate = gate
        self._calls = calls

    def __mapping__(self) -> dict[str, Handler]:
        return {f"/{self._descriptor.full_name}/{m.name}": self._handler(m) for m in self._descriptor.methods}

    def _handler(self, method: MethodDescriptor) -> Handler:
        async def serve(stream: "Stream[Any, Any]") -> None:
            self._calls[method.name] += 1
            request = await stream.recv_message()
            self._gate(method.name, stream.metadata or {})
            handle = getattr(self._methods, method.name, None)
            if handle is None:
                raise GRPCError(Status.UNIMPLEMENTED, f"the emulator doesn't know {method.name}")
            answer = handle(request)
            if inspect.isasyncgen(answer):
                async for message in answer:
                    await stream.send_message(message)
            else:
                await stream.send_message(await answer)

        return Handler(
            serve,
            _CARDINALITIES[method.client_streaming, method.server_streaming],
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
