"""What a growth kept, measured: function, gradients, escape; and that in a sentence."""
