#!/usr/bin/env bash
# How strongly each method's safe step tilts, chosen on prompts of the training half that no pair was
# made of, with a seed that the study does not use: the same three multipliers for all.
set -euo pipefail
mkdir -p runs
{
    sed '/^compare:/,$d' recipes/vault/compare.yaml
    cat <<'YAML'
compare:
  presets: [sacpo, rsa-tail, sacpo-kto, rsa, dpo-safe]
  seeds: [100]
  settings: {sacpo-kto: {safe.per_device_train_batch_size: 4}}
  grid: {lambda_: [0.125, 0.4, 1]}
YAML
} > runs/vault-tune.yaml
riskalign compare -c runs/vault-tune.yaml --output_dir recipes/vault/tuning --evaluation.split dev \
    --evaluation.prompts 64 --evaluation.dial "[]" --evaluation.distance_prompts 0
