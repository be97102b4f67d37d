#!/usr/bin/env bash
# Expected: a matrix over two lists of two names gives four stages, or an error if two of them would have one name.
# Found:    names are joined with "-" and not escaped. Of two pairs with the same joined name one is dropped without a
#           word. DVC 3.67.1.
# Workaround: stages/names.py refuses lists whose joined names are equal.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1
mkdir "$folder/repo" && cd "$folder/repo"
export DVC_NO_ANALYTICS=1
dvc="$folder/venv/bin/dvc"
"$dvc" init --quiet --no-scm
cat > dvc.yaml <<'YAML'
stages:
  train:
    matrix:
      tokenizer: [kmeans, kmeans-wide]
      decoder: [small, wide-small]
    cmd: echo ${item.tokenizer} with ${item.decoder} > ${item.tokenizer}+${item.decoder}.txt
    outs: ["${item.tokenizer}+${item.decoder}.txt"]
YAML
"$dvc" repro --quiet
echo "dvc $("$dvc" --version); expected to see: 4 files; got: $(ls ./*.txt | wc -l):"
ls ./*.txt
[ "$(ls ./*.txt | wc -l)" = 3 ]
