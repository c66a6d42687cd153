"""Use an extra that is installed alone: ``python extra.py EXTRA FOLDER``, with the pair of `pair.py`."""

import subprocess
import sys
from pathlib import Path

TRAINING = """
model:
  patch_size: 16
  spacings_mm: [12]
  affine: null
  dense: {name: unet, options: {encoder: [4, 8], decoder: [8, 4]}}
data: {images: [fixed.nii, moving.nii]}
optimization: {steps: 2, batch: 1}
run: {output: trained, compile: false}
"""
WARP = "apply results/transform.h5 moving.nii --reference"
COMMANDS = {
    "report": f"{WARP} mni152 -o on-mni152.nii",
    "train": "train training.yaml --device cpu",
    "formats": "convert results/transform.h5 -o map.x5",
    "large": f"{WARP} fixed.nii -o warped.ome.zarr",
    "itk": f"{WARP} fixed.nii -o warped.nrrd",
}
UNET = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "channels": [4, 8], "strides": [2]}


def predict_by_monai() -> None:
    """A U-Net of MONAI as a backbone."""
    import torch

    from patchmorph.networks.registry import build_dense

    velocity = build_dense("monai.networks.nets:UNet", UNET)(torch.rand(1, 2, 16, 16, 16))
    if velocity.shape[:2] != (1, 3):
        raise SystemExit(f"velocity must have three components, got {tuple(velocity.shape)}")


def main(extra: str, folder: Path) -> None:
    """`doctor` finds that an extra works, and a command uses it."""
    command = [sys.executable, "-m", "patchmorph"]
    found = subprocess.run([*command, "doctor"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in found.splitlines() if line.split()[:2] == ["extra", extra])
    if "not installed" in line or "broken" in line:
        raise SystemExit(line)
    if extra == "monai":
        predict_by_monai()
    else:
        (folder / "training.yaml").write_text(TRAINING, encoding="utf-8")
        subprocess.run([*command, *COMMANDS[extra].split(), "--quiet"], cwd=folder, check=True)
    print(line)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
