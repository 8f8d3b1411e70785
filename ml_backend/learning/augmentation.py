"""Random views of a batch, drawn and computed on whatever device the batch is on."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812


def augment(batch: torch.Tensor, strength: float, *, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Scale, shift, turn, brighten and, if `flip`, mirror each picture on its own: (n, h, w, 3) float32 in 0..255.

    At strength 1: up to 15 % of zoom and shift, 10 degrees, 20 % of brightness and contrast. `generator` is of the CPU.
    """
    n = len(batch)
    draw = (torch.rand(n, 6, generator=generator) * 2 - 1) * strength
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    angle, scale = draw[:, 0] * 0.175, 1 + 0.15 * draw[:, 1]
    shift = 0.15 * draw[:, 2:4]
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cosine * mirror, -sine, shift[:, 0]], 1), torch.stack([sine * mirror, cosine, shift[:, 1]], 1)]
    pixels = batch.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.stack(rows, 1).to(batch.device), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    brightness, contrast = (0.2 * draw[:, 4:6]).to(batch.device).T[:, :, None, None, None]
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - middle) * (1 + contrast) + middle * (1 + brightness)
    views: torch.Tensor = pixels.clamp_(0, 255).permute(0, 2, 3, 1)
    return views
