#!/usr/bin/env bash
# The safe step's learning rate for every method, chosen on prompts of the training half that no pair was
# made of, with a seed that the study does not use.
set -euo pipefail
mkdir -p runs
cat > runs/vault-tune.yaml <<YAML
$(sed '/^compare:/,$d' recipes/vault/compare.yaml)
compare:
  presets: [sacpo, sacpo-kto, rsa-tail, rsa, dpo-safe]
  seeds: [100]
  settings: {sacpo-kto: {safe.per_device_train_batch_size: 4}}
  grid: {safe.learning_rate: [3.5e-4, 7.0e-4, 1.4e-3]}
YAML
riskalign compare -c runs/vault-tune.yaml --output_dir runs/vault-tune --evaluation.split dev \
    --evaluation.prompts 64 --evaluation.dial "[]" --evaluation.distance_prompts 0
