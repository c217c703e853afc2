#!/usr/bin/env bash
# Each method's settings, chosen on prompts of the training half that no pair was made of, with a seed
# that the study does not use: the same grid for all, three multipliers by two targets, and for
# PPO-Lagrangian three learning rates. Then what else was tried for RSA. Finished cells are not run again.
set -euo pipefail
mkdir -p runs

tune() { # NAME, and the group `compare` on standard input
    {
        sed '/^compare:/,$d' recipes/vault/compare.yaml
        cat
    } > "runs/vault-tune-$1.yaml"
    riskalign compare -c "runs/vault-tune-$1.yaml" --output_dir "recipes/vault/tuning/$1" \
        --evaluation.split dev --evaluation.prompts 64 --evaluation.dial "[]" --evaluation.distance_prompts 0
}

tune gap <<'YAML'
compare:
  presets: [sacpo, rsa-tail]
  seeds: [100]
  grid: {lambda_: [0.125, 0.4, 1]}
YAML
tune kto <<'YAML'
compare:
  presets: [sacpo-kto]
  seeds: [100]
  settings: {sacpo-kto: {safe.per_device_train_batch_size: 4}}
  grid: {lambda_: [0.125, 0.4, 1]}
YAML
