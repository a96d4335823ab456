"""A BERT-like encoder built from a configuration: `python -m examples.small.encoder`.

It learns whether a sentence of made-up words has more high words than low ones. Sentences have
any length and are padded on the right; the mask says how long each one is.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from examples.small import round_trip
from examples.small.training import fit, logits
from service.tensors import Array, Tensors

_WORDS: Final = 60  # of the vocabulary: the upper half is high
_LONGEST: Final = 15  # odd, and so is every sentence: there is no tie
_NAMES: Final = {0: "low", 1: "high"}


def build() -> Any:
    """Return the untrained model: two layers, 32 wide, with names of its two classes."""
    from transformers import (  # noqa: PLC0415 (slow to import, and an extra)
        BertConfig,
        BertForSequenceClassification,
    )

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        vocab_size=_WORDS, max_position_embeddings=64,
        id2label=_NAMES, label2id={name: number for number, name in _NAMES.items()},
    )  # fmt: skip
    return BertForSequenceClassification(config)


def train(quick: bool) -> round_trip.Trained:  # noqa: FBT001 (the one choice of every example)
    """Train it on sentences that are made up."""
    words, labels = _sentences(2000, seed=1)
    model = build()
    tensors = {name: torch.from_numpy(array) for name, array in words.items()}
    fit(_Logits(model), tensors, torch.from_numpy(labels), epochs=1 if quick else 6)
    asked, expected = _sentences(300, seed=2)
    source = logits(_Logits(model), {n: torch.from_numpy(a) for n, a in asked.items()}).numpy()
    return round_trip.Trained(model, None, asked, expected, "logits", source)


class _Logits(nn.Module):
    """Gives the logits of the model in a dict, as the training loop wants them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits."""
        return {"logits": self.model(**inputs).logits}


def _sentences(count: int, seed: int) -> tuple[Tensors, Array]:
    """Return tokens and mask, int64 [count,15], and whether most words are high."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, _WORDS, (count, _LONGEST))
    lengths = random.integers(1, (_LONGEST + 1) // 2, (count, 1), endpoint=True) * 2 - 1
    mask = (np.arange(_LONGEST) < lengths).astype(np.int64)
    high = ((tokens >= _WORDS // 2) * mask).sum(axis=1)
    labels = (high * 2 > lengths[:, 0]).astype(np.int64)
    return {"input_ids": tokens * mask, "attention_mask": mask}, labels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example."""
    return round_trip.main("encoder", "train a BERT-like encoder from a configuration", train, argv)


if __name__ == "__main__":
    sys.exit(main())
