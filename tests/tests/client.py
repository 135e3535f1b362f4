"""A client of the API in Python, as anybody would write one: it asks the server for its messages.

client.py ADDRESS CA [CERT KEY]; a token is in SOCKPILOT_TOKEN. Writes what each call came to, one in a line.
"""

import os
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def read(path):
    with open(path, "rb") as file:
        return file.read()


address, ca, *own = sys.argv[1:]
certificate, key = (read(own[0]), read(own[1])) if own else (None, None)
credentials = grpc.ssl_channel_credentials(read(ca), key, certificate)
if "SOCKPILOT_TOKEN" in os.environ:
    bearer = grpc.access_token_call_credentials(os.environ["SOCKPILOT_TOKEN"])
    credentials = grpc.composite_channel_credentials(credentials, bearer)

with grpc.secure_channel(address, credentials) as channel:
    try:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

        def call(service, method, request):
            described = pool.FindServiceByName(f"sockpilot.v1.{service}").FindMethodByName(method)
            asked = message_factory.GetMessageClass(described.input_type)
            answered = message_factory.GetMessageClass(described.output_type)
            stub = channel.unary_unary(
                f"/sockpilot.v1.{service}/{method}",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            try:
                answer = stub(json_format.ParseDict(request, asked()), timeout=20)
                print(method, "OK", json_format.MessageToJson(answer, indent=None))
            except grpc.RpcError as error:
                print(method, error.code().name, error.details())

        call("AccessService", "WhoAmI", {})
        call("FleetService", "ListNodes", {})
        rule = {"name": "all", "set": {"synRtoMs": 200}}
        call("PolicyService", "CreatePolicy", {"policy": {"name": "policies/python", "rules": [rule]}})
        call("AccessService", "ListTokens", {})
    except grpc.RpcError as error:
        print("reflection", error.code().name, error.details())
