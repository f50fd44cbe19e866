"""The servers that `runtime_rest.py` compares with, each a process of its own.

    python _rest_servers.py KIND MODEL.onnx PORT

Every one but `echo` answers `POST /v2/models/linear/infer` for one input of 4 floats, and runs ONNX
Runtime with one thread, as its own documentation shows it.
"""

import json
import selectors
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HOST, PATH = "127.0.0.1", "/v2/models/linear/infer"


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(session, tensor):
    """The output for one tensor of a request, as the protocol writes it."""
    x = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    y = session.run(None, {session.get_inputs()[0].name: x})[0]
    return {"name": "y", "shape": list(y.shape), "datatype": "FP32", "data": y.ravel().tolist()}


def echo(_model, port):
    """What no server can beat: one that sleeps until bytes come, and sends bytes it has ready.

    No HTTP, no JSON and no model: for each piece that arrives, the bytes of one right answer.
    """
    body = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[-2.5,3.0,7.0]}]}'
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    selector = selectors.DefaultSelector()
    listener = socket.create_server((HOST, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
            else:
                _echo_once(selector, key.fileobj, reply)


def _echo_once(selector, peer, reply):
    try:
        if peer.recv(1 << 16):
            peer.sendall(reply)
            return
    except ConnectionError:  # it left with an answer unread
        pass
    selector.unregister(peer)
    peer.close()


def bare(model, port):
    """The least an ASGI server can do: parse, compute, answer. Nothing is checked."""
    session = open_session(model)

    async def application(_scope, receive, send):
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        tensor = json.loads(body)["inputs"][0]
        data = json.dumps({"outputs": [answer(session, tensor)]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    uvicorn(application, port)


def fastapi(model, port):
    """What a FastAPI tutorial gives: pydantic models in and out."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    session = open_session(model)

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

    @application.post(PATH, response_model=Response)
    async def infer(request: Request) -> Response:
        output = answer(session, request.inputs[0].model_dump())
        return Response(model_name="linear", outputs=[Tensor(**output)])

    uvicorn(application, port)


def uvicorn(application, port):
    import uvicorn

    uvicorn.run(
        application,
        host=HOST,
        port=port,
        http="httptools",
        loop="auto",  # uvloop, as skerry
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


def mlserver(model, port):
    """Inference in the server's own process: quicker than in a worker, where the model is small."""
    import asyncio

    from _mlserver_service import Linear
    from mlserver import MLServer, ModelSettings, Settings
    from mlserver.settings import ModelParameters

    async def main():
        settings = Settings(
            host=HOST,
            http_port=port,
            grpc_port=port + 1,
            metrics_endpoint=None,
            parallel_workers=0,
            debug=False,
            load_models_at_startup=False,
        )
        parameters = ModelParameters(uri=model)
        linear = ModelSettings(name="linear", implementation=Linear, parameters=parameters)
        await MLServer(settings).start([linear])

    asyncio.run(main())


def litserve(model, port):
    import litserve
    from _litserve_service import Linear

    server = litserve.LitServer(Linear(model), accelerator="cpu")
    server.run(host=HOST, port=port, log_level="warning", generate_client_file=False)


def bentoml(model, port):
    import os

    os.environ["BENTO_MODEL"] = str(Path(model).resolve())
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    os.environ["BENTOML_CONFIG_OPTIONS"] = "api_server.logging.access.enabled=false"
    words = ["-m", "bentoml", "serve", "_bento_service:Linear", "--host", HOST, "--port", str(port)]
    os.chdir(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    kinds = {one.__name__: one for one in (echo, bare, fastapi, mlserver, litserve, bentoml)}
    kinds[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
