"""Text without its padding: fewer keys to project and to attend to, and often no mask at all.

Cross-attention adds -10,000 to the logit of a padded token, whose weight is then exp(-10,000) = 0 in every float type;
and it does not ask in which order tokens come. So padding may go, wherever it lies, and nothing changes but the order
of sums. Texts of one length, above all a single one, are then masked nowhere, and attention takes its fastest kernels,
which know no mask. A text of nothing but padding keeps its length: all of its logits are lowered alike, so it is
attended to as if it were all tokens.
"""

import torch
from torch import Tensor

MULTIPLE = 32  # tokens: texts of different lengths leave few shapes, and rows of a mask aligned for every kernel


def trimmed(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Text (B, L, D) and mask (B, L) bool -> the tokens that count in order, and their mask: None if all count.

    Texts of one length become that long; others the longest of them, rounded up to `MULTIPLE`, but never longer than L.
    Waits for the device that holds the mask. Differentiable with respect to the text.
    """
    if mask is None:
        return text, None
    found = mask | ~mask.any(dim=1, keepdim=True)
    lengths = sorted(set(found.sum(dim=1).tolist()))
    if lengths == [mask.shape[1]]:
        return text, None
    alike = len(lengths) == 1
    length = lengths[0] if alike else min(mask.shape[1], -(-lengths[-1] // MULTIPLE) * MULTIPLE)
    first = torch.argsort(found, dim=1, descending=True, stable=True)[:, :length]  # those that count come first
    kept = text.gather(1, first.unsqueeze(-1).expand(-1, -1, text.shape[2]))
    return kept, None if alike else found.gather(1, first)
