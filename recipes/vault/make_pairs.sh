#!/usr/bin/env bash
# Samples the pairs that the quickstart ships, from nothing but the start model and the vault:
# about ten minutes on two cores. Run it from the repository's root.
set -euo pipefail
here=src/riskalign/quickstart
recipe=recipes/vault/rsa.yaml

# What a small model writes at temperature 1 need not be nice; such answers are left out.
without_rudeness() {
    gzip -dc "$1" | grep -viE '\b(bomb|bloody|murder|kill|suicid|weapon|porn|fuck|shit)' | gzip -nc > "$1.new"
    mv "$1.new" "$1"
}

riskalign sample -c $recipe --seed 1 --kind helpful --out $here/helpful.jsonl.gz --overwrite
without_rudeness $here/helpful.jsonl.gz
riskalign train -c $here/quickstart.yaml --step helpful --helpful.data $here/helpful.jsonl.gz \
    --output_dir runs/vault-step1
riskalign sample -c $recipe --seed 2 --kind safe --model runs/vault-step1/model \
    --out $here/safe.jsonl.gz --overwrite
without_rudeness $here/safe.jsonl.gz
