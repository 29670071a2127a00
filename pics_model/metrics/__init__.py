"""How good pictures are: what is measured, on what, with what weights. `docs/metrics.md` defines every number.

- `score`: a number with its interval, or the reason why there is none; means of rows
- `bootstrap`: intervals of means, and of paired differences
- `pixels`: PSNR and SSIM, of a picture and of a region
- `lpips`: LPIPS, of a picture and of a region
- `frechet`, `inception`: FID
- `embeddings`: CLIP-score, DINOv2-score and DreamSim
- `weights`: files of weights, and what to say of those that are missing
- `networks`: all networks that are at hand, and the names of those that are not
- `measure`: pairs of pictures -> rows and means
"""
