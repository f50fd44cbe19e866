"""What `_rest_servers.py litserve` serves."""

import litserve
from _rest_servers import PATH, answer, open_session


class Linear(litserve.LitAPI):
    def __init__(self, model):
        super().__init__(api_path=PATH)
        self._model = model

    def setup(self, device):  # noqa: ARG002 - the form of the library
        self._session = open_session(self._model)

    def decode_request(self, request):
        return request["inputs"][0]

    def predict(self, tensor):
        return answer(self._session, tensor)

    def encode_response(self, output):
        return {"outputs": [output]}
