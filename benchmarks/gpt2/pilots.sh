#!/bin/sh
# The pilots of gpt2-staged: four sizes and one growth, three seeds each; about 20 minutes on one core.
#   sh benchmarks/gpt2/pilots.sh && outgrow plan benchmarks/gpt2/plan.yaml --plot plan.png
set -e
pilot() {  # NAME SEED SETTING...
    name=$1 seed=$2
    shift 2
    outgrow train benchmarks/gpt2/pilot.yaml --set output=runs/gpt2-pilots/"$name-$seed" --set seed="$seed" "$@"
}
for seed in 0 1 2; do
    pilot 28x1 $seed --set optimizer.learning_rate=8e-3
    pilot 28x2 $seed --set optimizer.learning_rate=8e-3 --set model.n_layer=2
    pilot 56x1 $seed --set model.n_embd=56 --set model.n_head=4
    pilot 56x2 $seed --set model.n_embd=56 --set model.n_head=4 --set model.n_layer=2
    pilot grown $seed --set model.n_embd=56 --set model.n_head=4 \
        --set 'stages=[{name: small, tokens: 500k}, {name: large, tokens: 800k, grow: {to: {n_layer: 2}, depth: staged, moments: keep_zero}}]'
done
