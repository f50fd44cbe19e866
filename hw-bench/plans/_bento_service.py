"""What `_rest_servers.py bentoml` serves."""

import os

import bentoml
from _rest_servers import PATH, answer, open_session


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Linear:
    def __init__(self):
        self._session = open_session(os.environ["BENTO_MODEL"])

    @bentoml.api(route=PATH)
    def infer(self, inputs: list[dict]) -> dict:
        return {"outputs": [answer(self._session, inputs[0])]}
