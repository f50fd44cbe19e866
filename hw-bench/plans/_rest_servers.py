"""The servers that `runtime_rest.py` compares with, each a process of its own.

    python _rest_servers.py KIND MODEL.onnx

Every one answers `POST /v2/models/linear/infer` for one input of 4 floats, prints its port, and
runs ONNX Runtime with one thread.
"""

import json
import socket
import sys

import numpy as np
import onnxruntime

KIND, MODEL = sys.argv[1], sys.argv[2]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
INPUT, OUTPUT = session.get_inputs()[0].name, session.get_outputs()[0].name

listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print(listener.getsockname()[1], flush=True)


def bare():
    """The least an ASGI server can do: parse, compute, answer. Nothing is checked."""

    async def application(_scope, receive, send):
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        tensor = json.loads(body)["inputs"][0]
        x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        y = session.run([OUTPUT], {INPUT: x})[0]
        answer = {"outputs": [{"name": "y", "shape": y.shape, "data": y.ravel().tolist()}]}
        data = json.dumps(answer).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(data)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return application


def fastapi():
    """What a FastAPI tutorial gives: pydantic models in and out."""
    from typing import Any

    from fastapi import FastAPI
    from pydantic import BaseModel

    class Tensor(BaseModel):
        name: str
        shape: list[int]
        datatype: str
        data: list[float]

    class Request(BaseModel):
        inputs: list[Tensor]

    class Response(BaseModel):
        model_name: str
        outputs: list[Tensor]

    application: Any = FastAPI()

    @application.post("/v2/models/linear/infer", response_model=Response)
    async def infer(request: Request) -> Response:
        tensor = request.inputs[0]
        x = np.array(tensor.data, np.float32).reshape(tensor.shape)
        y = session.run([OUTPUT], {INPUT: x})[0]
        output = Tensor(name="y", shape=list(y.shape), datatype="FP32", data=y.ravel().tolist())
        return Response(model_name="linear", outputs=[output])

    return application


if __name__ == "__main__":
    import uvicorn

    config = uvicorn.Config(
        {"bare": bare, "fastapi": fastapi}[KIND](),
        http="httptools",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[listener])
