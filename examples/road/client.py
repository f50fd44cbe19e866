"""A client that calls a device without pause and counts what comes back."""

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TIMEOUT_SECONDS = 10.0
_SENDS = 2  # a connection that dropped under a request is opened again once, as HTTP clients do


@dataclass
class Tally:
    """What one device answered.

    Attributes:
        answered, failed: requests by outcome.
        resent: requests whose connection dropped and that were sent again.
        correct: answers whose class was the true one, by model version.
        answers: answers by model version.
    """

    answered: int = 0
    failed: int = 0
    resent: int = 0
    correct: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


class Caller(threading.Thread):
    """Sends one scan after the other to one device until it is stopped.

    Args:
        address: host and port of the device's HTTP endpoint.
        model: the model's name.
        images: shape [N, …], what callers pass; `labels`: shape [N], the true classes.
        pause: seconds between two calls.
    """

    def __init__(
        self,
        address: tuple[str, int],
        model: str,
        images: NDArray[Any],
        labels: NDArray[Any],
        pause: float = 0.005,
    ) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self._address, self._pause = address, pause
        self._path = f"/v2/models/{model}/infer"
        self._images, self._labels = images, labels
        self._halt = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def show(self, images: NDArray[Any], labels: NDArray[Any]) -> None:
        """From now on, send these."""
        self._images, self._labels = images, labels

    def run(self) -> None:
        number = 0
        while not self._halt.wait(self._pause):
            images, labels = self._images, self._labels
            row = number % len(images)
            self._call(images[row : row + 1], int(labels[row]))
            number += 1

    def stop(self) -> None:
        self._halt.set()
        self.join()

    def _call(self, image: NDArray[Any], label: int) -> None:
        tensor = {
            "name": "image",
            "shape": list(image.shape),
            "datatype": "UINT8",
            "data": image.ravel().tolist(),
        }
        body = json.dumps({"inputs": [tensor]})
        for send in range(_SENDS):
            try:
                self._take(*self._post(body), label)
                return
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                if send + 1 < _SENDS:
                    self.tally.resent += 1
                    continue
                self.tally.failed += 1
                self.tally.reasons[type(error).__name__] += 1

    def _post(self, body: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _take(self, status: int, body: bytes, label: int) -> None:
        if status != 200:
            self.tally.failed += 1
            self.tally.reasons[f"HTTP {status}"] += 1
            time.sleep(self._pause)
            return
        document = json.loads(body)
        version = document["model_version"]
        self.tally.answered += 1
        self.tally.answers[version] += 1
        scores = np.array(document["outputs"][0]["data"])
        self.tally.correct[version] += int(scores.argmax() == label)
