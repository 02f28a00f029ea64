#!/bin/sh
# Which small models learn to use their context within 1.5 M tokens? About two minutes a line on one core.
#   sh benchmarks/explore/plateau.sh
set -e
run() {  # NAME SETTING...
    name=$1
    shift
    outgrow train benchmarks/explore/plateau.yaml --set output=runs/explore/plateau/"$name" "$@"
}
gpt2() {  # NAME POSITIONS INITIAL_WEIGHTS TOKENS_PER_STEP
    run "$1" --set "model={model_type: gpt2, n_embd: 56, n_head: 4, n_layer: 4, n_positions: $2, initializer_range: $3, resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}" \
        --set "data.sequence_length=$2" --set "batch.sequences=$(($4 / $2))" --set data.tokenizer.vocab_size=1024
}
masked() {  # NAME SETTING...
    run "$@" --set data.mask_share=0.3
}
bert="model={model_type: bert, hidden_size: 48, intermediate_size: 192, num_hidden_layers: 4, num_attention_heads: 3, max_position_embeddings: 64, hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0"
masked eurobert
masked bert --set "$bert}"
masked bert-initial --set "$bert, initializer_range: 0.1}"
gpt2 gpt2-usual 128 0.02 2048
gpt2 gpt2-short 64 0.02 1024
gpt2 gpt2-initial 64 0.1 1024
