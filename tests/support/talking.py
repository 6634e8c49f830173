"""A model that is served on loopback, and a client that asks it about images."""

import base64
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import openai
import uvicorn
from PIL import Image
from support.releases import encoded


@contextmanager
def serving(app):
    """A real server on a free port, and a client of it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        try:
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
                while not server.started:
                    time.sleep(0.01)
                yield client
        finally:
            server.should_exit = True
            thread.join()


def noise(number: int, width: int = 56, height: int = 56) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))


def shown(image: Image.Image) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(encoded(image, 'PNG')).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def question(image: Image.Image, text: str = "What is written there?") -> list[dict]:
    return [{"role": "user", "content": [shown(image), {"type": "text", "text": text}]}]


def ask(client, messages, **how):
    return client.chat.completions.create(**{"model": "tiny", "messages": messages, "max_tokens": 8, **how})
