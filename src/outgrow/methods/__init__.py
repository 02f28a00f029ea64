"""The growth operators of the field: one file per paper family, in width, in depth, and learned."""
