"""Weights for EasyOCR's own networks, set by hand: they read bars.

The detector (CRAFT) takes dark pixels for text and joins what is less than about 8 pixels apart; the recogniser (the
second generation's, of the model "english_g2") reads a bar over the whole height of a line as one letter and one over
half of it as another. So a drawing of bars has a text that is known, and every part of EasyOCR does its work on it.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from easyocr.config import detection_models, recognition_models
from easyocr.craft import CRAFT
from easyocr.model.vgg_model import Model
from PIL import Image, ImageDraw

SURE = 400.0


def detector() -> CRAFT:
    net = CRAFT(pretrained=False).eval()
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for conv in convolutions:
            conv.weight.zero_()
            conv.bias.zero_()
        first, *rest = [m for m in net.basenet.slice1 if isinstance(m, torch.nn.Conv2d)]
        first.weight[0, :, 1, 1], first.bias[0] = -1 / 3, -1.0  # black is 1, from mid grey on 0
        for conv in rest:
            conv.weight[0, 0, 1, 1] = 1
        narrow, wide = (m for m in net.upconv4.conv if isinstance(m, torch.nn.Conv2d))
        narrow.weight[0, 64, 0, 0] = 1  # behind 64 channels from below comes what `slice1` saw
        wide.weight[1, 0, 1, :] = 1
        for conv in (wide, *(m for m in net.conv_cls if isinstance(m, torch.nn.Conv2d))):
            middle = conv.kernel_size[0] // 2
            conv.weight[0, 0, middle, middle] = 1  # text: as dark as it is
            if conv is not wide:
                conv.weight[1, 1, middle, :] = 1  # links: darkness, a pixel further to both sides each time
    return net


def recogniser(tall: str, half: str) -> Model:
    characters = recognition_models["gen2"]["english_g2"]["characters"]
    net = Model(1, 256, 256, len(characters) + 1).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "ConvNet" not in name or weight.ndim != 1:
                weight.zero_()
        first, *rest = [m for m in net.FeatureExtraction.ConvNet if isinstance(m, torch.nn.Conv2d)]
        first.weight[:2, 0, 1, 1], first.bias[:] = -5.0, 0.0  # the ramp between white, 0, and black is steep …
        first.bias[0], first.bias[1] = 0.0, -1.0
        rest[0].weight[0, 1, 1, 1] = -1  # … and ends at 1
        for conv in rest:
            if conv.bias is not None:
                conv.bias.zero_()
            middle = 1 if conv.kernel_size[0] == 3 else 0
            conv.weight[0, 0, middle, middle] = 1
        for layer in net.SequenceModeling:
            for gate, bias in ((0, 10.0), (1, -10.0), (3, 10.0)):  # lets all in, forgets all, lets all out
                layer.rnn.bias_ih_l0[gate * 256 : gate * 256 + 256] = bias
            layer.rnn.weight_ih_l0[2 * 256, 0] = 1.0
            layer.linear.weight[0, 0] = 1.5
        none, short, long = (_through(share) for share in (0.0, 2 / 3, 1.0))
        first, second = (none + short) / 2, (short + long) / 2
        net.Prediction.bias[:] = -SURE
        net.Prediction.bias[0] = 0.0  # CTC's blank
        for character, slope, bias in ((half, 1, -first), (tall, 2, -first - second)):
            index = characters.index(character) + 1
            net.Prediction.weight[index, 0], net.Prediction.bias[index] = SURE * slope, SURE * bias
    return net


def _through(share: float) -> float:
    """What comes out of the two recurrent layers for a column that is dark over a share of its height."""
    for _ in range(2):
        share = 1.5 * float(np.tanh(np.tanh(share)))
    return share


def write_weights(folder: Path, monkeypatch, tall: str = "I", half: str = "i") -> None:
    """Both networks as EasyOCR keeps them; it is told to hold them against these MD5 sums instead of its own."""
    folder.mkdir(exist_ok=True)
    for model, net in (
        (detection_models["craft"], detector()),
        (recognition_models["gen2"]["english_g2"], recogniser(tall, half)),
    ):
        path = folder / model["filename"]
        torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, path)
        monkeypatch.setitem(model, "md5sum", hashlib.md5(path.read_bytes()).hexdigest())


def bars(*lines: str, side: int = 256) -> Image.Image:
    """A white picture with lines of bars: `I` over the whole height of its line, `i` over its upper half."""
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        for column, bar in enumerate(line):
            x, y = 40 + 14 * column, 40 + 60 * row
            pen.rectangle((x, y, x + 6, y + (31 if bar == "I" else 13)), "black")
    return image
