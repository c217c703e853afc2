#!/usr/bin/env bash
# How each method's safe step is set, chosen on prompts of the training half that no pair was made of, with
# a seed that the study does not use. Finished cells (recipes/vault/tuning) are not run again.
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

# The same three multipliers for all, on gaps; KTO knows labels only.
tune gap <<'YAML'
compare:
  presets: [sacpo, rsa-tail, sacpo-kto]
  seeds: [100]
  settings: {sacpo-kto: {safe.per_device_train_batch_size: 4}}
  grid: {lambda_: [0.125, 0.4, 1]}
YAML

# On labels alone.
tune hard <<'YAML'
compare:
  presets: [sacpo]
  seeds: [100]
  grid: {safe.target: [hard], lambda_: [0.125, 0.4, 1]}
YAML

# RSA on labels alone, with the risk term's weight as it is and ten times that.
tune alpha <<'YAML'
compare:
  presets: [rsa-tail]
  seeds: [100]
  grid: {safe.target: [hard], lambda_: [0.4, 1], safe.alpha: [0.05, 0.5]}
YAML

# Two rounds of half the budget, the second on fresh samples.
tune rounds <<'YAML'
compare:
  presets: [rsa-rounds, sacpo-rounds]
  seeds: [100]
  settings:
    rsa-rounds: {safe.max_steps: 38, safe.sampling.prompts: 96}
    sacpo-rounds: {safe.max_steps: 38, safe.sampling.prompts: 96}
  grid: {safe.target: [hard], lambda_: [0.4, 1]}
YAML

tune ppo <<'YAML'
compare:
  presets: [safe-rlhf]
  seeds: [100]
  grid: {ppo.learning_rate: [1.75e-4, 3.5e-4, 7.0e-4]}
YAML
