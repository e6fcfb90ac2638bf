"""Scores of image-caption pairs from a contrastive loss over batches of pairs."""
