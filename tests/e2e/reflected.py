"""gRPC calls without generated code: messages and methods are those that the server's reflection describes."""

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Reflected:
    """Calls methods whose descriptors the server itself gave."""

    def __init__(self, address):
        # A batch of many vectors is larger than grpcio's default of 4 MiB. Loopback goes through no proxy.
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def message(self, name, **fields):
        return json_format.ParseDict(fields, GetMessageClass(self.pool.FindMessageTypeByName(name))())

    def call(self, service, method, request):
        """`request`: a dict, or for a streaming method a list of them. The answer, or the list of answers."""
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(method)
        kind = "stream_stream" if isinstance(request, list) else "unary_unary"
        stub = getattr(self.channel, kind)(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        name = descriptor.input_type.full_name
        if isinstance(request, list):
            return list(stub(iter([self.message(name, **each) for each in request]), timeout=120))
        return stub(self.message(name, **request), timeout=120)
