"""The network alone: embedding, adapters between the blocks of a base, prompts and the decoder of several scales."""
